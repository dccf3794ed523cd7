"""Bootstrap resamples (Efron, 1979) and the percentile intervals that they give."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.metrics.columns import checked_columns
from rewardlab.seeds import derive


def mean_interval(
    values: Tensor, confidence: float = 0.95, seed: int = 0, *, resamples: int = 1000
) -> tuple[float, float]:
    """Return the percentile interval (low, high) of the mean over bootstrap resamples.

    Efron, 1979. values: [N], N ≥ 2.

    Example:
        >>> low, high = mean_interval(torch.arange(100.0))
        >>> low < 49.5 < high
        True
    """
    [column] = checked_columns(2, values=values)
    counts = resample_counts(len(column), resamples, derive(seed, "mean"), column.device)
    means = counts @ column / len(column)
    return percentiles(means, confidence)


def resample_counts(count: int, resamples: int, seed: int, device: torch.device) -> Tensor:
    """Return how often each bootstrap resample drew each row, float64 [resamples, count]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(count, (resamples, count), generator=generator)
    counts = torch.zeros(resamples, count, dtype=torch.float64)
    counts.scatter_add_(1, rows, torch.ones_like(counts))
    return counts.to(device)


def percentiles(values: Tensor, confidence: float) -> tuple[float, float]:
    """Return the ends of the central interval that holds this share of the values, without NaN."""
    tail = (1 - confidence) / 2
    shares = values.new_tensor([tail, 1 - tail])
    low, high = torch.nanquantile(values, shares).tolist()
    return low, high
