"""A pretrained face detector as a monitor: is it still a face?

It is the last of MTCNN's three nets (arXiv 1604.02878), which decides over crops that the others
propose. The generator's faces are always in the same place, so it alone is asked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from real.expression import cropped
from real.files import model_file
from rewardlab.rewards import Reward
from rewardlab.types import Samples, images_of

SIDE = 48


class DetectorNet(nn.Module):
    """MTCNN's output net, from crops [B, 3, 48, 48] in [-1, 1] to logits [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.prelu1 = nn.PReLU(32)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = nn.PReLU(64)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = nn.PReLU(64)
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.prelu4 = nn.PReLU(128)
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.last_pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits of "no face" and "face", [B, 2]."""
        x = self.pool(self.prelu1(self.conv1(crops)))
        x = self.pool(self.prelu2(self.conv2(x)))
        x = self.last_pool(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x))
        flat = x.permute(0, 3, 2, 1).flatten(1)  # the order of the net that it was trained as
        logits: Tensor = self.dense6_1(self.prelu5(self.dense5(flat)))
        return logits


class FaceDetector(Reward):
    """Probability that a picture shows a face, by the pretrained detector.

    Raises:
        InputError: if the file is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = DetectorNet()
        weights = torch.load(model_file("detector"), map_location="cpu", weights_only=True)
        needed = {name: weights[name] for name in self.net.state_dict()}
        self.net.load_state_dict(needed)
        self.meaning = "probability of a face"
        self.eval().requires_grad_(False)

    def forward(self, samples: Samples) -> Tensor:
        """Return the probability a picture, float32 [B]."""
        faces = cropped(images_of(samples, "FaceDetector", channels="3"))
        crops = interpolate(faces, (SIDE, SIDE), mode="area")
        return self.net(crops * 2 - 1).float().softmax(1)[:, 1]
