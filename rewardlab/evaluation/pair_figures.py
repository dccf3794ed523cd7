"""What pairs of a right and a wrong answer say of a reward: accuracy, calibration, and length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rewardlab.evaluation.intervals import wilson
from rewardlab.evaluation.rewardbench2 import RowScores
from rewardlab.evaluation.rewardbench_rows import BenchRow
from rewardlab.evaluation.taxonomy import length
from rewardlab.metrics import calibration_error
from rewardlab.metrics.bootstrap import percentiles, resampled_means
from rewardlab.types import distinct

BINS = 10
PAIRS_IN_A_BIN = 10  # at least
# Upper ends of the length ratio, right answer to wrong one, of each kind of pair.
LENGTHS = {
    "right answer under half as long": 0.5,
    "shorter": 0.9,
    "about as long": 1.1,
    "longer": 2.0,
    "over twice as long": math.inf,
}


class Pairs(NamedTuple):
    """Every right answer against every wrong one of its row.

    Attributes:
        leads: float64 [N], score of the right answer less that of the wrong one.
        prompts: int64 [N], number of the pair's prompt.
        right_words: float64 [N], length of the right answer.
        wrong_words: float64 [N], length of the wrong one.
    """

    leads: Tensor
    prompts: Tensor
    right_words: Tensor
    wrong_words: Tensor

    @property
    def wins(self) -> Tensor:
        """1 where the right answer leads, 0 where it does not, 0.5 where both are equal: [N]."""
        return (self.leads.sign() + 1) / 2


def prompt_numbers(rows: Sequence[BenchRow]) -> Tensor:
    """Return the number of each row's prompt, int64 [N]; equal prompts share one."""
    return torch.tensor(distinct([row.prompt for row in rows]).places)


def pairs_of(rows: Sequence[BenchRow], scores: Sequence[RowScores]) -> Pairs:
    """Return every right answer against every wrong one of its row."""
    leads = []
    numbers = []
    right_words = []
    wrong_words = []
    prompts = prompt_numbers(rows).tolist()
    for row, of_row, number in zip(rows, scores, prompts, strict=True):
        right = torch.tensor([length(text) for text in row.chosen], dtype=torch.float64)
        wrong = torch.tensor([length(text) for text in row.rejected], dtype=torch.float64)
        lead = of_row.chosen[:, None] - of_row.rejected[None, :]
        leads.append(lead.flatten())
        numbers += [number] * lead.numel()
        right_words.append(right[:, None].expand(lead.shape).flatten())
        wrong_words.append(wrong[None, :].expand(lead.shape).flatten())
    return Pairs(
        torch.cat(leads), torch.tensor(numbers), torch.cat(right_words), torch.cat(wrong_words)
    )


def share(values: Tensor, prompts: Tensor, seed: int = 0) -> dict[str, Any]:
    """Return a share with Wilson's interval, whose units are prompts, and a bootstrap over prompts.

    Wilson's stands where none or all succeed; the bootstrap where prompts have several rows.

    Args:
        values: [N] in [0, 1], N ≥ 1.
        prompts: int64 [N], number of each value's prompt.
        seed: names the bootstrap's draws.

    Example:
        >>> figure = share(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.arange(4))
        >>> figure["mean"], figure["count"], round(figure["low"], 3), round(figure["high"], 3)
        (0.75, 4, 0.301, 0.954)
    """
    units, numbers = prompts.unique(return_inverse=True)
    rate = wilson(min(1.0, values.double().mean().item()), len(units))
    means = resampled_means(values, numbers, seed)
    return {
        "mean": rate.value,
        "low": rate.low,
        "high": rate.high,
        "bootstrap": list(percentiles(means, 0.95)),
        "count": len(values),
        "prompts": len(units),
    }


def calibration_figures(pairs: Pairs) -> dict[str, Any]:
    """Return how well Bradley and Terry's P(right is better) = σ(lead) says how often it is.

    Looked at without knowing the answer: the probability that the answer with the higher score is
    the right one is σ(|lead|), and it is so where the lead is positive.

    Returns:
        "error": `calibration_error` of σ(|lead|). "log_loss": mean -log σ(lead); log 2 ≈ 0.693 is
        that of a coin. "scale": the factor of all scores that makes the log loss least, below 1 for
        a reward that is too sure; None where every pair is right, so that none is large enough, 0
        where no scale helps. "bins": the mean of σ(|lead|), the share that is right with Wilson's
        interval, and the number of pairs.

    Example:
        >>> leads = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
        >>> figures = calibration_figures(Pairs(leads, torch.arange(4), leads, leads))
        >>> round(figures["scale"], 6) == round(math.log(3), 6)  # σ(scale) = 3/4
        True
    """
    sizes = pairs.leads.abs()
    return {
        "error": calibration_error(sizes, pairs.wins, BINS),
        "log_loss": functional.softplus(-pairs.leads).mean().item(),
        "scale": best_scale(pairs.leads),
        "bins": _bins(sizes, pairs.wins),
    }


def best_scale(leads: Tensor) -> float | None:
    """Return the s ≥ 0 that makes the mean of -log σ(s·lead) least, None where it is infinite.

    The loss is convex in s; the root of its slope is found by halving.
    """
    if (leads >= 0).all():
        return None if (leads > 0).any() else 0.0
    if leads.mean() <= 0:
        return 0.0
    unit = leads / leads.abs().max()
    low = 0.0
    high = 1.0
    while _slope(unit, high) < 0:
        low = high
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if _slope(unit, middle) < 0:
            low = middle
        else:
            high = middle
    return low / leads.abs().max().item()


def _slope(leads: Tensor, scale: float) -> float:
    return -(leads * torch.sigmoid(-scale * leads)).mean().item()


def _bins(sizes: Tensor, wins: Tensor) -> list[dict[str, Any]]:
    """Return confidence and accuracy of pairs in bins of about equal count."""
    count = max(1, min(BINS, len(sizes) // PAIRS_IN_A_BIN))
    bins = []
    for rows in sizes.argsort().tensor_split(count):
        rate = wilson(wins[rows].mean().item(), len(rows))
        row = {
            "confidence": sizes[rows].sigmoid().mean().item(),
            "mean": rate.value,
            "low": rate.low,
            "high": rate.high,
            "count": len(rows),
        }
        bins.append(row)
    return bins


def length_figures(pairs: Pairs, seed: int = 0) -> dict[str, Any]:
    """Return the accuracy by how long the right answer is beside the wrong one, in words.

    Returns:
        "bins": `share` of the pairs of each kind in `LENGTHS`, where there are some.
        "prefers_longer": share of pairs in which the reward prefers the longer answer, and
        "longer_is_right", in which it is the right one; None where all are equally long. What the
        first has over the second is a liking for length.
    """
    ratio = pairs.right_words / pairs.wrong_words.clamp_min(1)
    bins = {}
    low = -math.inf
    for name, high in LENGTHS.items():
        inside = (ratio > low) & (ratio <= high)
        if inside.any():
            bins[name] = share(pairs.wins[inside], pairs.prompts[inside], seed)
        low = high
    gap = pairs.right_words - pairs.wrong_words
    differ = gap != 0
    figures: dict[str, Any] = {"bins": bins, "prefers_longer": None, "longer_is_right": None}
    if differ.any():
        longer_is_right = (gap[differ] > 0).double()
        wins = pairs.wins[differ]
        prefers = torch.where(gap[differ] > 0, wins, 1 - wins)
        numbers = pairs.prompts[differ]
        figures["prefers_longer"] = share(prefers, numbers, seed)
        figures["longer_is_right"] = share(longer_is_right, numbers, seed)
    return figures
