"""Antialiased resizing as two matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Mode = Literal["bicubic", "bilinear"]


class Box(NamedTuple):
    """A part of an image, in pixels; bottom and right are the first row and column behind it."""

    top: int
    left: int
    bottom: int
    right: int


def product(
    images: Tensor,
    original: Sequence[int],
    size: Sequence[int],
    box: Box,
    mode: str,
    transposed: bool,
) -> Tensor:
    """Return A_h · X · A_wᵀ of images X, or transposed A_hᵀ · X · A_w.

    Args:
        images: [B, C, H, W], or transposed [B, C, h, w].
        original: (H, W).
        size: height and width of the whole resized image.
        box: the part of it that is computed; h and w are its height and width.
        mode: "bicubic" or "bilinear".
        transposed: whether to apply the map's transpose.

    Example:
        >>> images = torch.eye(4)[None, None]
        >>> pixels = product(images, (4, 4), (2, 4), Box(0, 0, 1, 2), "bilinear", False)
        >>> pixels[0, 0, 0].round(decimals=2)
        tensor([0.4300, 0.4300])
    """
    rows = (box.top, box.bottom)
    columns = (box.left, box.right)
    down = weights(original[0], size[0], rows, mode, images.dtype, images.device)
    across = weights(original[1], size[1], columns, mode, images.dtype, images.device)
    if transposed:
        down = down.T
        across = across.T
    height_out, height_in = down.shape
    width_out, width_in = across.shape
    across_first = height_in * width_out * (width_in + height_out)
    down_first = width_in * height_out * (height_in + width_out)
    if across_first <= down_first:
        return down @ (images @ across.T)
    return (down @ images) @ across.T


@lru_cache(64)
def weights(
    have: int,
    want: int,
    span: tuple[int, int],
    mode: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return rows of the matrix [want, have] that resizes one dimension from `have` to `want`.

    Each row sums to 1. Output i sits at (i + 1/2) · have/want. It weighs input j, at j + 1/2, by
    the filter of their distance, in units of the larger of the two pixels.

    Args:
        have: pixels of the image.
        want: pixels of the resized image.
        span: the rows of the matrix, from the first to before the last.
        mode: "bicubic" or "bilinear".
        dtype: type of the result.
        device: device of the result.

    Example:
        >>> cpu = torch.device("cpu")
        >>> weights(4, 2, (0, 2), "bilinear", torch.float32, cpu).round(decimals=2)
        tensor([[0.4300, 0.4300, 0.1400, 0.0000],
                [0.0000, 0.1400, 0.4300, 0.4300]])
    """
    scale = have / want
    outputs = (torch.arange(*span, dtype=torch.float64) + 0.5) * scale
    inputs = torch.arange(have, dtype=torch.float64) + 0.5
    distances = (inputs - outputs[:, None]).abs() / max(scale, 1.0)
    heights = _filter(distances, mode)
    matrix = heights / heights.sum(1, keepdim=True)
    return matrix.to(device, dtype)


def _filter(x: Tensor, mode: str) -> Tensor:
    """Return a triangle, or Keys' cubic convolution with a = -1/2, of distances x >= 0."""
    if mode != "bicubic":
        return (1 - x).clamp_min(0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    beyond_one = far.where(x < 2, 0)
    return near.where(x < 1, beyond_one)
