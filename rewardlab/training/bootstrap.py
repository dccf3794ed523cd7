"""The bootstrap that makes members of an ensemble disagree: each counts rows differently."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewardlab.seeds import derive, row_seeds

# distribution function of Poisson(1) at 0 … 5
POISSON = (0.36788, 0.73576, 0.91970, 0.98101, 0.99634, 0.99941)


def bootstrap_weights(seed: int, rows: Sequence[int] | Tensor, members: int) -> Tensor:
    """Return how often each member counts each row, drawn from Poisson(1): float32 [B, M].

    The weights are the same in every epoch and process. This bootstrap needs no pass over the data
    first (Oza and Russell, 2001). A single member counts every row once.

    Args:
        seed: seed of the run.
        rows: [B], numbers that stay with the rows.
        members: M.

    Example:
        >>> weights = bootstrap_weights(0, range(1000), 2)
        >>> weights.shape, bool((weights.mean(0) - 1).abs().max() < 0.1)
        (torch.Size([1000, 2]), True)
    """
    if members == 1:
        return torch.ones(len(rows), 1)
    columns = []
    for member in range(members):
        seeds = row_seeds(derive(seed, "bootstrap", member), rows)
        columns.append(seeds.double() / 2**62)
    boundaries = torch.tensor(POISSON, dtype=torch.float64)
    return torch.bucketize(torch.stack(columns, 1), boundaries, right=True).float()
