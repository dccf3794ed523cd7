"""How well scores order samples: the area under the ROC curve, and Spearman's correlation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics.bootstrap import percentiles, resample_counts
from rewardlab.metrics.columns import checked_columns
from rewardlab.seeds import derive


class _Classes(NamedTuple):
    """The rank of each score among the distinct ones, ascending: int64, one tensor a class."""

    positives: Tensor
    negatives: Tensor
    size: int  # an upper bound of the ranks


def auc(scores: Tensor, labels: Tensor) -> float:
    """Return the share of (positive, negative) pairs in which the positive scores higher.

    A tie counts one half. Exact: Mann and Whitney's U over m·n (Hanley and McNeil, Radiology 143,
    1982). Constant scores give 0.5.

    Args:
        scores: [N].
        labels: [N], 1 or true for positives, 0 or false for negatives.

    Raises:
        InputError: if a class is empty, a label is neither 0 nor 1, or a score is NaN or infinite.

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        0.875
    """
    classes = _ranked_classes(scores, labels)
    positives = _counts(classes.positives, classes.size)
    negatives = _counts(classes.negatives, classes.size)
    return _auc_of_counts(positives, negatives).item()


def auc_interval(
    scores: Tensor,
    labels: Tensor,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval (low, high) of the AUC over bootstrap resamples.

    Each class is resampled by itself. Resamples of perfectly separated classes cannot differ. There
    the far bound is ((1 - confidence)/2)^(1/k), Clopper and Pearson's for k successes in k trials,
    with k the smaller class's size. On normal scores, 10 to 100 a class, AUC 0.5 to 0.96, intervals
    at 0.95 were measured to cover 0.90 to 0.95 of the time.

    Example:
        >>> scores, labels = torch.arange(40.0), torch.arange(40) >= 20
        >>> auc_interval(scores, labels)
        (0.831..., 1.0)
    """
    classes = _ranked_classes(scores, labels)
    positives = _resampled(classes.positives, classes.size, resamples, derive(seed, "positives"))
    negatives = _resampled(classes.negatives, classes.size, resamples, derive(seed, "negatives"))
    resampled = _auc_of_counts(positives, negatives)
    low, high = percentiles(resampled, confidence)
    smaller = min(len(classes.positives), len(classes.negatives))
    bound = ((1 - confidence) / 2) ** (1 / smaller)
    exact = auc(scores, labels)
    if exact == 1:
        low = min(low, bound)
    if exact == 0:
        high = max(high, 1 - bound)
    return low, high


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's ρ, the correlation of ranks. Both [N], N ≥ 2.

    Tied values share their mean rank. It is 0 where a column is constant, since there is no order
    to agree with.

    Example:
        >>> values = torch.tensor([1.0, 2.0, 3.0])
        >>> round(rank_correlation(values, values**3), 6)
        1.0
    """
    from scipy.stats import spearmanr

    first, second = checked_columns(2, a=a, b=b)
    if first.min() == first.max() or second.min() == second.max():
        return 0.0
    result = spearmanr(first.cpu().numpy(), second.cpu().numpy())
    return float(result.statistic)


def _ranked_classes(scores: Tensor, labels: Tensor) -> _Classes:
    """Return the ranks of the positives' scores and of the negatives' among all distinct scores."""
    values, truth = checked_columns(1, scores=scores, labels=labels)
    binary = (truth == 0) | (truth == 1)
    if not binary.all() or truth.min() == truth.max():
        seen = torch.unique(truth)[:5].tolist()
        raise InputError(f"the AUC needs labels 0 and 1, at least one of each; got {seen}.")
    _, ranks = torch.unique(values, return_inverse=True)
    positive = truth.bool()
    return _Classes(ranks[positive], ranks[~positive], len(ranks))


def _counts(ranks: Tensor, size: int) -> Tensor:
    """Return how many rows [size] have each rank."""
    counts = torch.bincount(ranks, minlength=size)
    return counts.double()


def _auc_of_counts(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the AUC [...] of counts [..., U] of each class at each of U ascending scores."""
    below = negatives.cumsum(-1) - negatives / 2
    wins = (positives * below).sum(-1)
    pairs = positives.sum(-1) * negatives.sum(-1)
    return wins / pairs


def _resampled(ranks: Tensor, size: int, resamples: int, seed: int) -> Tensor:
    """Return the counts [resamples, size] at each rank in bootstrap resamples of a class."""
    draws = resample_counts(len(ranks), resamples, seed, ranks.device)
    counts = draws.new_zeros(resamples, size)
    return counts.index_add_(1, ranks, draws)
