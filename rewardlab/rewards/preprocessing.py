"""From images in [0, 1] to what a tower was trained on, on tensors and differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.kernels.resize import resize


class Preprocessing(nn.Module):
    """Antialiased resize, centre crop and normalisation with a tower's own numbers, as open_clip
    does it on PIL images.

    Args:
        numbers: `size` (height, width), `mean`, `std`, and optionally `interpolation` (bicubic or
            bilinear), `resize_mode` (shortest, longest or squash) and `fill_color`; what
            `open_clip.PreprocessCfg` holds.

    Example:
        >>> prepare = Preprocessing({"size": (4, 4), "mean": [0.5] * 3, "std": [0.5] * 3})
        >>> prepare(torch.ones(2, 1, 8, 6)).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(self, numbers: dict[str, Any]) -> None:
        super().__init__()
        size = numbers["size"]
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.numbers = (
            {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
            | numbers
            | {"size": self.size}
        )
        self.register_buffer(
            "mean", torch.as_tensor(numbers["mean"]).view(-1, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.as_tensor(numbers["std"]).view(-1, 1, 1), persistent=False
        )

    def forward(self, images: Tensor, resize: bool = True) -> Tensor:
        """Return normalised images [B, 3, size] from [B, C, H, W] in [0, 1], where C is 1 or 3.

        Args:
            images: one channel is shown as grey in all three.
            resize: if false, images have to come in the tower's size.

        Raises:
            InputError: if channels or, without resize, sizes do not fit the tower.
        """
        if images.shape[1] not in (1, 3):
            raise InputError(
                f"The tower takes images with 3 channels (or 1, shown as grey); got a tower whose channels do not fit: "
                f"images {list(images.shape)} have {images.shape[1]}. Drop an alpha channel, or decode latents to pixels first."
            )
        images = images.to(self.mean.device, torch.float32).expand(-1, 3, -1, -1)
        if tuple(images.shape[2:]) != self.size:
            if not resize:
                raise InputError(
                    f"The tower takes images of {self.size[0]}x{self.size[1]} and resize is off; got images of "
                    f"{images.shape[2]}x{images.shape[3]}. Turn resize on, or choose a tower of that size."
                )
            return self._fit(images)
        return (images - self.mean) / self.std

    def _fit(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise."""
        size = _resized(images.shape[2:], self.size, self.numbers["resize_mode"])
        return resize(
            images,
            size,
            window=_window(size, self.size),
            fill=self.numbers["fill_color"] / 255,
            mean=self.mean,
            std=self.std,
            mode="bilinear" if self.numbers["interpolation"] == "bilinear" else "bicubic",
        )


def _resized(size: torch.Size, target: tuple[int, int], mode: str) -> tuple[int, int]:
    if mode == "squash":
        return target
    ratios = [have / want for have, want in zip(size, target, strict=True)]
    ratio = max(ratios) if mode == "longest" else min(ratios)
    whole = (
        int if mode == "shortest" and target[0] == target[1] else round
    )  # torchvision truncates, open_clip rounds
    return tuple(
        want if r == ratio else max(1, whole(have / ratio))
        for have, want, r in zip(size, target, ratios, strict=True)
    )


def _window(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part (top, left, height, width) of an image of `size` that is `target` large, about its
    centre; negative outside.
    """
    top, left = (
        round((have - want) / 2) if have > want else -((want - have) // 2)
        for have, want in zip(size, target, strict=True)
    )
    return top, left, *target
