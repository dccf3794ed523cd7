"""How videos move: motion, flicker, and the likeness of neighbouring frames."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.errors import InputError


def motion(videos: Tensor) -> Tensor:
    """Return how much each video moves: the mean absolute difference of neighbouring frames.

    A still video has 0. The unit is that of the pixels.

    Args:
        videos: [B, F, C, H, W], F at least 2.

    Returns:
        float32 [B].

    Raises:
        InputError: if there is one frame only, or none.

    Example:
        >>> brighter = torch.tensor([0.0, 0.25, 0.5]).view(1, 3, 1, 1, 1)
        >>> motion(brighter).tolist()
        [0.25]
    """
    frames = _frames(videos, "Motion", least=2)
    return frames.diff(dim=1).abs().mean((1, 2))


def flicker(videos: Tensor) -> Tensor:
    """Return how much each video flickers: how far frames are from the mean of their neighbours.

    It is the mean absolute value of x_t - (x_{t-1} + x_{t+1}) / 2 over pixels and frames. What
    changes evenly has 0; what jumps there and back by d has d.

    Args:
        videos: [B, F, C, H, W], F at least 3.

    Returns:
        float32 [B].

    Raises:
        InputError: if there are fewer than three frames.

    Example:
        >>> even = torch.tensor([0.0, 0.25, 0.5]).view(1, 3, 1, 1, 1)
        >>> jumping = torch.tensor([0.0, 0.5, 0.0]).view(1, 3, 1, 1, 1)
        >>> flicker(torch.cat([even, jumping])).tolist()
        [0.0, 0.5]
    """
    frames = _frames(videos, "Flicker", least=3)
    return frames.diff(n=2, dim=1).abs().mean((1, 2)) / 2


def temporal_consistency(features: Tensor) -> Tensor:
    """Return how alike neighbouring frames are: the mean cosine of their features.

    A still video has 1.

    Args:
        features: [B, F, D], one vector a frame, F at least 2.

    Returns:
        float32 [B].

    Raises:
        InputError: if they are of another form, or of one frame only.

    Example:
        >>> turning = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> temporal_consistency(turning).tolist()
        [0.5]
    """
    if features.dim() != 3 or features.shape[1] < 2:
        raise InputError(
            "Temporal consistency compares features [B, F, D] of two frames or more; got "
            f"{list(features.shape)}."
        )
    before = features[:, :-1].float()
    after = features[:, 1:].float()
    return torch.cosine_similarity(before, after, dim=2).mean(1)


def _frames(videos: Tensor, measure: str, least: int) -> Tensor:
    """Return the pixels of each frame, float32 [B, F, C·H·W]."""
    if videos.dim() != 5 or videos.shape[1] < least:
        raise InputError(
            f"{measure} compares {least} frames or more of videos [B, F, C, H, W]; got "
            f"{list(videos.shape)}."
        )
    return videos.float().flatten(2)
