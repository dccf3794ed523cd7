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


def resampled_means(
    values: Tensor,
    groups: Tensor | None = None,
    seed: int = 0,
    *,
    resamples: int = 1000,
    at_once: int = 4_000_000,
) -> Tensor:
    """Return the mean over each bootstrap resample of whole groups, float64 [resamples].

    A resample draws as many groups as there are, such as prompts, each with all of its values. So
    values of one prompt, which rise and fall together, count as the one unit that they are. A mean
    without a value, where values are NaN, is NaN.

    Args:
        values: [N]; NaN is a value that is not there.
        groups: int64 [N], number of each value's group, 0 to G - 1; each value alone by default.
        seed: names the draws.
        resamples: how many.
        at_once: entries of the counts that are held at once.

    Example:
        >>> means = resampled_means(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]))
        >>> means.unique().tolist()
        [0.5]
    """
    values = values.double()
    if groups is None:
        groups = torch.arange(len(values))
    there = values.isfinite().double()
    count = int(groups.max()) + 1
    sums = values.new_zeros(count).index_add_(0, groups, values.nan_to_num(nan=0.0))
    sizes = values.new_zeros(count).index_add_(0, groups, there)
    step = max(1, at_once // count)
    parts = []
    for start in range(0, resamples, step):
        draws = min(step, resamples - start)
        counts = resample_counts(count, draws, derive(seed, "means", start), values.device)
        parts.append((counts @ sums) / (counts @ sizes))
    return torch.cat(parts)


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
