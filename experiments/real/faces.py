"""A pretrained generator of faces: a DCGAN of 64 pixels, trained on synthetic persons."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from real.files import model_file
from rewardlab.data import Prompts
from rewardlab.policies import LatentGenerator, LatentPolicy

LATENTS = 100
WIDTHS = (LATENTS, 512, 256, 128, 64)
SIDE = 64
WEIGHTS = "generator.safetensors"


class FaceGenerator(LatentGenerator):
    """DCGAN (arXiv 1511.06434) from latents [B, 100] to faces [B, 3, 64, 64].

    Args:
        weights: whether to read the pretrained ones; else they are random.
    """

    def __init__(self, weights: bool = True) -> None:
        super().__init__()
        self.main = nn.Sequential(*_layers())
        if weights:
            self.load_state_dict(_pretrained())
        self.eval()

    def forward(self, latents: Tensor, prompts: list[str]) -> Tensor:
        """Return faces; prompts are ignored, since the generator has none."""
        pixels: Tensor = self.main(latents[:, :, None, None])
        return (pixels + 1) / 2

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> FaceGenerator:
        """Load what `save_pretrained` wrote."""
        generator = cls(weights=False)
        generator.load_state_dict(load_file(Path(folder) / WEIGHTS))
        return generator


def face_policy(train_generator: bool = False) -> LatentPolicy:
    """Return the pretrained faces as a policy: a standard normal over their latents.

    Args:
        train_generator: train the generator's weights too, by ReFL.
    """
    return LatentPolicy(FaceGenerator(), shape=[LATENTS], train_generator=train_generator)


def unprompted(rows: int = 48) -> Prompts:
    """Return data of one batch of empty prompts, for loops that draw for themselves.

    Args:
        rows: faces a step.
    """
    return Prompts([""] * rows, batch_size=rows)


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(WIDTHS)):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False))
        layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU())
    layers.append(nn.ConvTranspose2d(WIDTHS[-1], 3, 4, 2, 1, bias=False))
    layers.append(nn.Tanh())
    return layers


def _pretrained() -> dict[str, Any]:
    checkpoint = torch.load(model_file("faces"), map_location="cpu", weights_only=True)
    weights: dict[str, Any] = checkpoint["netG_state_dict"]
    return weights
