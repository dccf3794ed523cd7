"""Doubt: how much more a reward likes each sample than other rewards do, by ranks alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rewardlab.errors import InputError


def doubts(scores: Tensor, witnesses: Tensor) -> Tensor:
    """Return each sample's rank by the reward less its mean rank by witnesses, float32 [B].

    GARDO, arXiv 2512.24138. Ranks ascend from 0 for the lowest score to 1 for the highest; ties
    share the mean of theirs. A doubt of 1 is a sample that the reward likes best and every witness
    least. Over all samples the mean is 0. No scale matters: any increasing function of a column
    leaves the doubts as they are.

    Args:
        scores: [B], of the reward.
        witnesses: [B, W], of W other rewards.

    Raises:
        InputError: if the shapes do not fit, or a score is not finite.

    Example:
        >>> scores = torch.tensor([1.0, 2.0, 30.0])
        >>> doubts(scores, torch.tensor([[5.0], [6.0], [4.0]])).tolist()
        [-0.5, -0.5, 1.0]
    """
    if scores.dim() != 1 or witnesses.dim() != 2 or len(witnesses) != len(scores):
        raise InputError(
            "doubts compares scores [B] with those of witnesses [B, W]; got "
            f"{list(scores.shape)} and {list(witnesses.shape)}."
        )
    if witnesses.shape[1] == 0:
        raise InputError("doubts needs a witness at least; got scores of none.")
    table = torch.cat([scores[:, None].double(), witnesses.double()], 1)
    if not table.isfinite().all():
        raise InputError("doubts ranks finite scores; got NaN or infinite ones.")
    ranks = torch.stack([_ranks(column) for column in table.T.contiguous()], 1)
    return (ranks[:, 0] - ranks[:, 1:].mean(1)).float()


def most_doubted(doubt: Tensor, share: float) -> Tensor:
    """Return which samples are the most doubted share of those with a doubt of 0 or more, bool [B].

    Their number is rounded up. Of equal doubts the first count.

    Args:
        doubt: [B].
        share: above 0, at most 1.

    Example:
        >>> most_doubted(torch.tensor([0.0, -1.0, 0.5, 0.5]), share=0.5).tolist()
        [False, False, True, True]
    """
    eligible = int((doubt >= 0).sum())
    count = math.ceil(share * eligible)
    order = doubt.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(doubt, dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


def _ranks(column: Tensor) -> Tensor:
    """Return the ranks of scores [B], from 0 to 1; equal scores share the mean of theirs."""
    ordered = column.sort().values
    below = torch.searchsorted(ordered, column, right=False)
    up_to = torch.searchsorted(ordered, column, right=True)
    return (below + up_to - 1).double() / (2 * max(len(column) - 1, 1))
