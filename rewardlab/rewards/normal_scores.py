"""Normal scores: where a value lies among references, as a standard normal deviate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.types import distinct

KNOTS = 101  # quantiles of the references that are kept


def residual_knots(prompts: Sequence[Prompt], scores: Tensor) -> Tensor:
    """Return the quantiles, at levels (k - ½)/Q, of scores less their prompt's mean: [Q, M].

    A score is part of its prompt's mean, so with K references of a prompt it lies nearer to it than
    it would to the true one, by √((K - 1)/K). The residuals are widened by that. Prompts with one
    reference are left out.

    Args:
        prompts: N prompts.
        scores: [N, M].

    Example:
        >>> scores = torch.tensor([[1.0], [3.0], [7.0]])
        >>> knots = residual_knots(["a", "a", "b"], scores)
        >>> knots.shape, round(knots[-1].item(), 2)
        (torch.Size([101, 1]), 1.4)
    """
    unique = distinct(prompts)
    places = torch.tensor(unique.places, dtype=torch.long)
    scores = scores.detach().double().cpu()
    counts = torch.bincount(places).double()
    sums = scores.new_zeros(len(counts), scores.shape[1])
    sums.index_add_(0, places, scores)
    means = sums / counts[:, None]
    residuals = scores - means[places]
    of_rows = counts[places]
    widening = of_rows / (of_rows - 1)
    widened = residuals * widening.sqrt()[:, None]
    several = of_rows > 1
    return widened[several].quantile(_levels(), dim=0)


def normal_scores(values: Tensor, knots: Tensor, deviations: Tensor) -> Tensor:
    """Return Φ⁻¹ of the share of references below each value, [B, M].

    It is linear between the knots, and beyond them goes on with a slope of one deviation, so that
    it never ends to rise. A value that many references have gets the middle of their scores. Of
    Gaussian references it is the value over their deviation.

    Args:
        values: [B, M].
        knots: [Q, M], rising, from `residual_knots`.
        deviations: [M], of the references.

    Example:
        >>> knots = torch.linspace(-1, 1, 101)[:, None]
        >>> scores = normal_scores(torch.tensor([[-0.5], [0.5]]), knots, torch.ones(1))
        >>> [round(score, 2) for score in scores.flatten().tolist()]
        [-0.67, 0.67]
    """
    scores = torch.special.ndtri(_levels()).to(values)
    columns = values.T.contiguous()
    table = knots.to(values).T.contiguous()
    slopes = 1 / deviations.to(values)
    sides = []
    for right in (False, True):
        places = torch.searchsorted(table, columns.detach(), right=right)
        inside = _between(columns, places, table, scores)
        sides.append(_with_ends(inside, columns, places, table, scores, slopes))
    both = torch.stack(sides)
    return both.mean(0).T


def _between(values: Tensor, places: Tensor, table: Tensor, scores: Tensor) -> Tensor:
    """Return the scores [M, B] of values that lie below the knot at `places`, on a line."""
    last = len(scores) - 1
    upper = places.clamp(1, last)
    lower = upper - 1
    low = table.gather(1, lower)
    high = table.gather(1, upper)
    tiny = torch.finfo(values.dtype).tiny
    width = high - low
    share = (values - low) / width.clamp_min(tiny)
    score_below = scores[lower]
    score_above = scores[upper]
    return torch.lerp(score_below, score_above, share.clamp(0, 1))


def _with_ends(
    inside: Tensor, values: Tensor, places: Tensor, table: Tensor, scores: Tensor, slopes: Tensor
) -> Tensor:
    """Return the scores [M, B], with lines of the slopes [M] beyond the outermost knots."""
    count = len(scores)
    first = table[:, :1]
    last = table[:, -1:]
    steepness = slopes[:, None]
    short = values - first
    over = values - last
    below = scores[0] + short * steepness
    above = scores[-1] + over * steepness
    within = inside.where(places > 0, below)
    return within.where(places < count, above)


def _levels() -> Tensor:
    """Return the levels of the knots, float64 [Q]."""
    middles = torch.arange(KNOTS, dtype=torch.float64) + 0.5
    return middles / KNOTS
