"""A pretrained net of facial expressions (FER-2013) as a reward: how happy a face looks.

The file is Keras' HDF5. Its layers and weights are read as data; no Keras is needed. The net is a
small Xception (arXiv 1610.02357) of 58,000 parameters, with a gradient to the pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, interpolate, max_pool2d, pad

from real.files import model_file
from rewardlab.errors import InputError
from rewardlab.rewards import FrozenFeatures, Reward
from rewardlab.types import Samples, images_of

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
SIDE = 64
GRAY = (0.299, 0.587, 0.114)
FACE = slice(6, 58)  # of 64 rows and columns: the face without hair and background
LAST = "global_average_pooling2d_1"  # what the softmax takes
FEATURES = "add_4"


class ExpressionNet(nn.Module):
    """The net from faces [B, 3, H, W] in [0, 1] to logits [B, 7], in the order of `LABELS`.

    Args:
        path: the HDF5 file.

    Raises:
        InputError: if the package h5py is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import h5py
        except ImportError as error:
            raise InputError(
                "The expression net is an HDF5 file, and the package h5py, which reads it, is "
                "missing; `make models` installs it."
            ) from error
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])["config"]
            self.layers: list[dict[str, Any]] = config["layers"]
            for layer in self.layers:
                self._read(file["model_weights"][layer["name"]], layer["name"])

    def _read(self, group: Any, layer: str) -> None:
        """Register the weights of a layer, in torch's order of dimensions."""
        for path in group.attrs["weight_names"]:
            path = path.decode() if isinstance(path, bytes) else path
            weight = torch.from_numpy(group[path][()])
            if weight.dim() == 4 and "depthwise" in path:
                weight = weight.permute(2, 3, 0, 1)
            elif weight.dim() == 4:
                weight = weight.permute(3, 2, 0, 1)
            part = path.split("/")[-1].split(":")[0]
            self.register_buffer(f"{layer}_{part}", weight.contiguous())

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits [B, 7]."""
        return self.activations(faces)[LAST]

    def activations(self, faces: Tensor) -> dict[str, Tensor]:
        """Return the output of every layer, by its name."""
        outputs: dict[str, Tensor] = {}
        for layer in self.layers:
            inputs = [_gray(faces)]
            if layer["inbound_nodes"]:
                inputs = [outputs[node[0]] for node in layer["inbound_nodes"][0]]
            outputs[layer["name"]] = self._output(layer, inputs)
        return outputs

    def _output(self, layer: dict[str, Any], inputs: Sequence[Tensor]) -> Tensor:
        """Return what a layer makes of its inputs; other kinds, as the softmax, pass."""
        first = inputs[0]
        kind = layer["class_name"]
        if kind == "Conv2D":
            return self._convolve(layer, first)
        if kind == "SeparableConv2D":
            return self._convolve_separably(layer["name"], first)
        if kind == "BatchNormalization":
            return self._normalize(layer, first)
        if kind == "MaxPooling2D":
            return max_pool2d(_padded(first, 3, 2, -1e9), 3, 2)
        if kind == "Add":
            return first + inputs[1]
        if kind == "GlobalAveragePooling2D":
            return first.mean((2, 3))
        if layer["config"].get("activation") == "relu":
            return first.relu()
        return first

    def _convolve(self, layer: dict[str, Any], images: Tensor) -> Tensor:
        config = layer["config"]
        stride = config["strides"][0]
        if config["padding"] == "same":
            images = _padded(images, config["kernel_size"][0], stride)
        bias = self._weight(layer["name"], "bias") if config["use_bias"] else None
        return conv2d(images, self._weight(layer["name"], "kernel"), bias, stride)

    def _convolve_separably(self, layer: str, images: Tensor) -> Tensor:
        depthwise = self._weight(layer, "depthwise_kernel")
        images = conv2d(_padded(images, 3, 1), depthwise, groups=images.shape[1])
        return conv2d(images, self._weight(layer, "pointwise_kernel"))

    def _normalize(self, layer: dict[str, Any], images: Tensor) -> Tensor:
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        weights = [self._weight(layer["name"], part) for part in parts]
        return batch_norm(images, *weights, eps=layer["config"]["epsilon"])

    def _weight(self, layer: str, part: str) -> Tensor:
        return self.get_buffer(f"{layer}_{part}")


class Expression(Reward, FrozenFeatures):
    """Probability that a face shows an expression, or its log-odds, by the pretrained net.

    Args:
        label: one of `LABELS`.
        log_odds: return log-odds, whose gradient does not vanish near 0 and 1.

    Raises:
        InputError: if the label is unknown, or the file or h5py is missing.
    """

    def __init__(self, label: str = "happy", log_odds: bool = False) -> None:
        super().__init__()
        if label not in LABELS:
            raise InputError(f"The expression net knows {', '.join(LABELS)}; got {label!r}.")
        self.net = ExpressionNet(model_file("expression"))
        self.index = LABELS.index(label)
        self.log_odds = log_odds
        self.meaning = f"{'log-odds' if log_odds else 'probability'} of {label}"
        self.eval().requires_grad_(False)

    def forward(self, samples: Samples) -> Tensor:
        """Return a score a face, float32 [B], with a gradient to the pixels."""
        logits = self.net(cropped(images_of(samples, "Expression", channels="3")))
        log_probs = logits.float().log_softmax(1)
        log_prob = log_probs[:, self.index]
        if not self.log_odds:
            return log_prob.exp()
        others = log_probs.clone()
        others[:, self.index] = -torch.inf
        return log_prob - others.logsumexp(1)

    def features(self, samples: Samples) -> Tensor:
        """Return the mean activations [B, 128] before the last convolution, for distances."""
        images = cropped(images_of(samples, "Expression", channels="3"))
        return self.net.activations(images)[FEATURES].mean((2, 3))


def cropped(images: Tensor) -> Tensor:
    """Cut the face out of the generator's 64 pixels, in proportion for other sizes."""
    _, _, height, width = images.shape
    top, bottom = FACE.start * height // SIDE, FACE.stop * height // SIDE
    left, right = FACE.start * width // SIDE, FACE.stop * width // SIDE
    return images[:, :, top:bottom, left:right]


def _gray(faces: Tensor) -> Tensor:
    """Return faces in gray [B, 1, 64, 64], in [-1, 1]."""
    weights = faces.new_tensor(GRAY)[:, None, None]
    gray = (faces * weights).sum(1, keepdim=True)
    resized = interpolate(gray, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return resized * 2 - 1


def _padded(images: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad as Keras' "same" does: so that ⌈size / stride⌉ is left, the odd pixel at the end."""
    margins = []
    for size in reversed(images.shape[2:]):
        steps = -(-size // stride) - 1
        total = max(steps * stride + kernel - size, 0)
        margins += [total // 2, total - total // 2]
    return pad(images, margins, value=value)
