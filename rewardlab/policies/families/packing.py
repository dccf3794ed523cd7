"""Latents as tokens: squares of neighbouring numbers, one token each."""

from __future__ import annotations

from torch import Tensor


def packed(latents: Tensor) -> Tensor:
    """Return latents [B, C, H, W] as tokens [B, H/2 · W/2, C · 4] of 2x2 squares.

    Example:
        >>> import torch
        >>> packed(torch.arange(4.0).view(1, 1, 2, 2)).tolist()
        [[[0.0, 1.0, 2.0, 3.0]]]
    """
    rows, channels, height, width = latents.shape
    squares = latents.view(rows, channels, height // 2, 2, width // 2, 2)
    tokens = squares.permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(rows, height * width // 4, channels * 4)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return tokens of 2x2 squares as latents [B, C, height, width].

    Example:
        >>> import torch
        >>> latents = torch.rand(2, 3, 4, 6)
        >>> torch.equal(unpacked(packed(latents), 4, 6), latents)
        True
    """
    rows, _, numbers = tokens.shape
    squares = tokens.view(rows, height // 2, width // 2, numbers // 4, 2, 2)
    latents = squares.permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(rows, numbers // 4, height, width)
