"""What makes the members of an ensemble disagree: each counts the rows of the data differently."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewardlab.seeds import derive, row_seeds

POISSON = (
    0.36788,
    0.73576,
    0.91970,
    0.98101,
    0.99634,
    0.99941,
)  # distribution function of Poisson(1) at 0 … 5


def bootstrap_weights(seed: int, rows: Sequence[int] | Tensor, members: int) -> Tensor:
    """Return how often each member counts each row, Poisson(1) drawn: float32 [B, M], the same in
    every epoch and process.

    The bootstrap that needs no pass over the data first (Oza and Russell, 2001). A single member
    counts every row once.

    Args:
        seed: of the run.
        rows: [B], numbers that the rows keep.
        members: M.

    Example:
        >>> weights = bootstrap_weights(0, range(1000), 2)
        >>> weights.shape, bool((weights.mean(0) - 1).abs().max() < 0.1)
        (torch.Size([1000, 2]), True)
    """
    if members == 1:
        return torch.ones(len(rows), 1)
    draws = [
        row_seeds(derive(seed, "bootstrap", member), rows).double() / 2**62
        for member in range(members)
    ]
    return torch.bucketize(
        torch.stack(draws, 1), torch.tensor(POISSON, dtype=torch.float64), right=True
    ).float()
