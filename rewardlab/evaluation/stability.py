"""Stability: how long gold holds above its start while a policy is optimised, never without its
peak and gold at equal KL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.seeds import derive


@dataclass(frozen=True)
class Stability:
    """When windowed gold fell below its start, and what was gained before: a constant reward is
    perfectly stable.

    Attributes:
        step: of the first reading below the start; the run's last step if it is censored.
        censored: gold did not fall within the run, so that `step` is a lower bound.
        window: readings that each figure is the mean of.
        start: gold where optimisation began.
        peak_gold: the highest windowed gold.
        peak_step: where it was reached.
        gold_at_kl: windowed gold where the KL first reached each value in nats; None where it did
            not.
    """

    step: float
    censored: bool
    window: int
    start: float
    peak_gold: float
    peak_step: float
    gold_at_kl: Mapping[float, float | None]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json, the KL values as strings."""
        return asdict(self) | {
            "gold_at_kl": {f"{kl:g}": gold for kl, gold in self.gold_at_kl.items()}
        }


def stability(
    steps: Sequence[float],
    gold: Tensor,
    kl: Tensor,
    *,
    at_kl: Sequence[float],
    start: float | None = None,
    window: int = 1,
    prompts: Sequence[str] | None = None,
) -> Stability:
    """The first step at which the mean of the last `window` gold readings is below the start;
    censored if there is none.

    Readings have to be over one fixed set of prompts, or the set's own differences look like rises
    and falls. A window delays a fall by up to its length, and a single reading's noise may be a
    fall; compare runs of one window and spacing.

    Args:
        steps: [S], rising; the first is the start, which cannot be a fall.
        gold: [S], the mean over the prompts at each step.
        kl: [S], KL from the start in nats.
        at_kl: KL values in nats at which gold is read, so that runs can be compared at equal
            distance; at least one.
        start: gold where optimisation began; the first reading if not given.
        window: readings that are averaged. Those before a whole window has passed are not looked
            at.
        prompts: [S], a name of each reading's prompt set, such as its fingerprint; refused if they
            differ.

    Raises:
        InputError: if columns disagree, steps do not rise, prompts change, or `at_kl` is empty.

    Example:
        >>> gold = torch.tensor([0.0, 1.0, 0.5, -0.5, -2.0])
        >>> found = stability([0, 10, 20, 30, 40], gold, torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), at_kl=[1.5, 9.0])
        >>> found.step, found.censored, found.peak_gold, found.gold_at_kl
        (30.0, False, 1.0, {1.5: 0.75, 9.0: None})
    """
    _check(steps, gold, kl, at_kl, window, prompts)
    times = torch.tensor([float(step) for step in steps[window - 1 :]], dtype=torch.float64)
    smooth, distance = (
        column.detach().double().cpu().unfold(0, window, 1).mean(1) for column in (gold, kl)
    )
    begin = float(gold[0]) if start is None else float(start)
    fallen = ((smooth < begin) & (times > float(steps[0]))).nonzero()
    step = times[fallen[0, 0]] if len(fallen) else times[-1]
    peak = int(smooth.argmax())
    read = {float(value): gold_at_kl(distance, smooth, value) for value in at_kl}
    return Stability(
        step.item(), not len(fallen), window, begin, smooth[peak].item(), times[peak].item(), read
    )


def gold_at_kl(kl: Tensor, gold: Tensor, value: float) -> float | None:
    """Gold where the KL first reaches `value` nats, interpolated between the readings before and
    after; None if never.

    Example:
        >>> gold_at_kl(torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, 4.0, 9.0]), 0.5)
        1.0
    """
    reached = (kl >= value).nonzero()
    if not len(reached):
        return None
    after = int(reached[0, 0])
    if after == 0:
        return float(gold[0]) if kl[0] == value else None
    share = (value - kl[after - 1]) / (kl[after] - kl[after - 1])
    return float(gold[after - 1] + share * (gold[after] - gold[after - 1]))


@dataclass(frozen=True)
class Ratio:
    """How many times longer one set of runs stays good than another. See `stability_ratio`.

    Attributes:
        value: the ratio of medians, censored runs taken at their last step.
        bound: "exact"; "at least" or "at most" where a median is only bounded; "unknown" where both
            are.
        low: the interval's lower end.
        high: its upper end; infinite where runs did not fall.
        censored: runs of each set that did not fall.
        runs: of each set.
    """

    value: float
    bound: str
    low: float
    high: float
    censored: tuple[int, int]
    runs: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json; an infinite end becomes None."""
        return asdict(self) | {"high": self.high if math.isfinite(self.high) else None}


def stability_ratio(
    first: Sequence[Stability],
    second: Sequence[Stability],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Ratio:
    """The ratio of the median steps of two sets of seeds, with an interval over seeds that knows of
    censored runs.

    A censored run fell somewhere between its last step and infinity, so each bootstrap resample
    gives a lowest and a highest ratio; the interval goes from the low percentile of the lowest to
    the high percentile of the highest. A median is exact as long as less than half of the runs are
    censored, unless one was cut off before it. Few seeds make wide, coarse intervals, and fewer
    than about six too narrow ones.

    Raises:
        InputError: if a set has fewer than two runs.

    Example:
        >>> def run(step, censored=False):
        ...     return Stability(step, censored, 1, 0.0, 0.0, 0.0, {1.0: 0.0})
        >>> ratio = stability_ratio([run(60), run(90), run(100, True)], [run(20), run(30), run(40)])
        >>> ratio.value, ratio.bound, ratio.high
        (3.0, 'exact', inf)
    """
    if min(len(first), len(second)) < 2:
        raise InputError(
            f"A ratio with an interval needs two seeds or more on each side; got {len(first)} and {len(second)}."
        )
    exact = []
    drawn = []
    generator = np.random.default_rng(derive(seed, "stability"))
    for runs in (first, second):
        times = np.array([[run.step, math.inf if run.censored else run.step] for run in runs])
        exact.append(np.median(times, axis=0))
        drawn.append(
            np.median(times[generator.integers(len(runs), size=(resamples, len(runs)))], axis=1)
        )
    tail = (1 - confidence) / 2
    low = np.quantile(drawn[0][:, 0] / drawn[1][:, 1], tail, method="lower")
    high = np.quantile(drawn[0][:, 1] / drawn[1][:, 0], 1 - tail, method="higher")
    above, below = (bool(median[0] != median[1]) for median in exact)
    bound = ("unknown" if below else "at least") if above else ("at most" if below else "exact")
    censored = sum(run.censored for run in first), sum(run.censored for run in second)
    return Ratio(
        float(exact[0][0] / exact[1][0]),
        bound,
        float(low),
        float(high),
        censored,
        (len(first), len(second)),
    )


def _check(
    steps: Sequence[float],
    gold: Tensor,
    kl: Tensor,
    at_kl: Sequence[float],
    window: int,
    prompts: Sequence[str] | None,
) -> None:
    shapes = [list(column.shape) for column in (gold, kl)]
    if any(shape != [len(steps)] for shape in shapes) or not 1 <= window < max(2, len(steps)):
        raise InputError(
            f"stability needs a gold and a KL for each of S >= 2 steps, and a window of 1 to S - 1 readings; "
            f"got {len(steps)} steps, {shapes[0]} and {shapes[1]}, window={window}."
        )
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise InputError(
            "stability reads gold at rising steps. Are rows of several runs mixed, or was a run resumed twice?"
        )
    if not (gold.isfinite().all() and kl.isfinite().all()):
        raise InputError(
            "stability needs finite gold and KL at every step. Did the run diverge? Then cut it there."
        )
    if prompts is not None and (len(prompts) != len(steps) or len(set(prompts)) > 1):
        raise InputError(
            f"stability compares readings over one fixed set of prompts; got {len(set(prompts))} sets."
        )
    if not at_kl:
        raise InputError(
            "stability is reported with gold at equal KL; give at_kl=, one or more values in nats."
        )
