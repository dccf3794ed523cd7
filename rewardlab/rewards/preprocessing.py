"""From images in [0, 1] to what a tower was trained on, on tensors and differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.kernels.resize import resize

Size = tuple[int, int]  # height, width
DEFAULTS = {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}


class Preprocessing(nn.Module):
    """Antialiased resize, centre crop and normalisation with a tower's own numbers.

    The result is what open_clip computes on PIL images.

    Args:
        numbers: `size` (height, width), `mean`, `std`, and optionally `interpolation` (bicubic or
            bilinear), `resize_mode` (shortest, longest or squash) and `fill_color`; what
            `open_clip.PreprocessCfg` holds.

    Example:
        >>> prepare = Preprocessing({"size": (4, 4), "mean": [0.5] * 3, "std": [0.5] * 3})
        >>> prepare(torch.ones(2, 1, 8, 6)).shape
        torch.Size([2, 3, 4, 4])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, numbers: dict[str, Any]) -> None:
        super().__init__()
        size = numbers["size"]
        if isinstance(size, int):
            size = (size, size)
        self.size = tuple(size)
        self.numbers: dict[str, Any] = {**DEFAULTS, **numbers, "size": self.size}
        mean = torch.as_tensor(numbers["mean"]).view(-1, 1, 1)
        std = torch.as_tensor(numbers["std"]).view(-1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor, resize: bool = True) -> Tensor:
        """Return normalised images [B, 3, size] from [B, C, H, W] in [0, 1], where C is 1 or 3.

        Args:
            images: one channel is shown as grey in all three.
            resize: if false, images have to come in the tower's size.

        Raises:
            InputError: if channels or, without resize, sizes do not fit the tower.
        """
        channels, height, width = images.shape[1:]
        if channels not in (1, 3):
            raise InputError(
                "The tower takes images with 3 channels (or 1, shown as grey); got a tower whose "
                f"channels do not fit: images {list(images.shape)} have {channels}. Drop an alpha "
                "channel, or decode latents to pixels first."
            )
        images = images.to(self.mean.device, torch.float32).expand(-1, 3, -1, -1)
        if (height, width) == self.size:
            return (images - self.mean) / self.std
        if not resize:
            raise InputError(
                f"The tower takes images of {self.size[0]}x{self.size[1]} and resize is off; got "
                f"images of {height}x{width}. Turn resize on, or choose a tower of that size."
            )
        return self._fit(images)

    def _fit(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise."""
        height, width = images.shape[2:]
        size = _resized((height, width), self.size, self.numbers["resize_mode"])
        mode = self.numbers["interpolation"]
        return resize(
            images,
            size,
            window=_window(size, self.size),
            fill=self.numbers["fill_color"] / 255,
            mean=self.mean,
            std=self.std,
            mode="bilinear" if mode == "bilinear" else "bicubic",
        )


def _resized(size: Size, target: Size, mode: str) -> Size:
    """Return the size to which an image is resized before it is cropped or padded to `target`."""
    if mode == "squash":
        return target
    height, width = target
    height_ratio = size[0] / height
    width_ratio = size[1] / width
    choose = max if mode == "longest" else min
    ratio = choose(height_ratio, width_ratio)
    # torchvision, which crops to squares, truncates; open_clip rounds
    truncates = mode == "shortest" and height == width
    whole = int if truncates else round
    if height_ratio != ratio:
        height = max(1, whole(size[0] / ratio))
    if width_ratio != ratio:
        width = max(1, whole(size[1] / ratio))
    return height, width


def _window(size: Size, target: Size) -> tuple[int, int, int, int]:
    """Return the part (top, left, height, width) of an image that is `target` large.

    It lies about the image's centre, and is negative where it begins outside.
    """
    height, width = target
    top = _margin(size[0], height)
    left = _margin(size[1], width)
    return top, left, height, width


def _margin(length: int, target: int) -> int:
    """Return how much of a length lies before the `target` at its middle; negative if it lacks."""
    if length > target:
        return round((length - target) / 2)
    return -((target - length) // 2)
