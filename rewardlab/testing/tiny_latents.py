"""A tiny generator of pictures from latents, for tests and examples."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewardlab.policies.latent_generators import LatentGenerator

_SIDE = 8


class TinyLatentGenerator(LatentGenerator):
    """One hidden layer from latents [B, D] to pictures [B, 3, 8, 8], or to videos of F frames.

    Args:
        size: number D of a latent's components.
        frames: number of frames; None gives pictures.
        seed: of the weights.
    """

    def __init__(self, size: int = 6, frames: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.size = size
        self.frames = frames
        pixels = 3 * _SIDE * _SIDE * (frames or 1)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, pixels))

    def forward(self, latents: Tensor, prompts: list[str]) -> Tensor:
        pixels: Tensor = self.layers(latents).sigmoid()
        shape = [3, _SIDE, _SIDE]
        if self.frames is not None:
            shape.insert(0, self.frames)
        return pixels.view(-1, *shape)

    def save_pretrained(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"size": self.size, "frames": self.frames}
        (folder / "config.json").write_text(json.dumps(config) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TinyLatentGenerator:
        folder = Path(folder)
        generator = cls(**json.loads((folder / "config.json").read_text()))
        generator.load_state_dict(load_file(folder / "model.safetensors"))
        return generator


def tiny_latent_generator(
    size: int = 6, frames: int | None = None, seed: int = 0
) -> TinyLatentGenerator:
    """Return a generator of 8-pixel pictures, or of videos, with random weights.

    Example:
        >>> tiny_latent_generator(frames=2)(torch.zeros(1, 6), [""]).shape
        torch.Size([1, 2, 3, 8, 8])
    """
    return TinyLatentGenerator(size, frames, seed)
