"""Antialiased resizing as two matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["bicubic", "bilinear"]
Span = tuple[int, int]


def product(
    images: Tensor,
    original: Sequence[int],
    size: Sequence[int],
    spans: tuple[Span, Span],
    mode: str,
    transposed: bool,
) -> Tensor:
    """Return A_h · X · A_wᵀ of images X [B, C, H, W], or transposed A_hᵀ · X · A_w of X [B, C, h,
    w].

    Args:
        original: (H, W).
        size: of the whole resized image.
        spans: the rows and the columns of it that are wanted; h and w are their lengths.

    Example:
        >>> product(torch.eye(4)[None, None], (4, 4), (2, 4), ((0, 1), (0, 2)), "bilinear", False)[0, 0, 0].round(decimals=2)
        tensor([0.4300, 0.4300])
    """
    down, across = (
        weights(have, want, span, mode, images.dtype, images.device)
        for have, want, span in zip(original, size, spans, strict=True)
    )
    down, across = (down.T, across.T) if transposed else (down, across)
    (h, H), (w, W) = down.shape, across.shape
    if H * W * w + H * w * h <= W * H * h + W * h * w:  # the cheaper one first
        return down @ (images @ across.T)
    return (down @ images) @ across.T


@lru_cache(64)
def weights(
    have: int, want: int, span: Span, mode: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The rows `span` of the matrix [want, have] that resizes one dimension from `have` to `want`;
    each row sums to 1.

    Output i sits at (i + 1/2) · have/want, and weighs input j, at j + 1/2, by the filter of their
    distance, in units of the larger of the two pixels.

    Example:
        >>> weights(4, 2, (0, 2), "bilinear", torch.float32, torch.device("cpu")).round(decimals=2)
        tensor([[0.4300, 0.4300, 0.1400, 0.0000],
                [0.0000, 0.1400, 0.4300, 0.4300]])
    """
    scale = have / want
    centre = (torch.arange(*span, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(have, dtype=torch.float64) + 0.5 - centre[:, None]).abs() / max(
        scale, 1.0
    )
    heights = _cubic(distance) if mode == "bicubic" else (1 - distance).clamp_min(0)
    return (heights / heights.sum(1, keepdim=True)).to(device, dtype)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2, of x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return near.where(x < 1, far.where(x < 2, 0))
