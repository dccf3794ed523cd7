"""Stability: how long gold holds above its start while a policy is optimized.

It is never reported without the peak of gold, and gold at equal KL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.seeds import derive


@dataclass(frozen=True)
class Stability:
    """When windowed gold fell below its start, and what was gained before.

    A constant reward is perfectly stable.

    Attributes:
        step: step of the first reading below the start; the run's last step if it is censored.
        censored: True if gold did not fall within the run, so that `step` is a lower bound.
        window: number of readings that each figure is the mean of.
        start: gold where optimization began.
        peak_gold: the highest windowed gold.
        peak_step: step at which it was reached.
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
        plain = asdict(self)
        plain["gold_at_kl"] = {f"{kl:g}": gold for kl, gold in self.gold_at_kl.items()}
        return plain


def stability(
    steps: Sequence[float],
    gold: Tensor,
    kl: Tensor,
    *,
    at_kl: Sequence[float],
    start: float | None = None,
    window: int = 1,
    prompts: Sequence[Prompt] | None = None,
) -> Stability:
    """Return the first step at which windowed gold is below its start.

    Windowed gold is the mean of the last `window` readings. The run is censored if there is no such
    step. Readings have to be over one fixed set of prompts, or the
    set's own differences look like rises and falls. A window delays a fall by up to its length, and
    a single reading's noise may be a fall; compare runs of one window and spacing.

    Args:
        steps: rising steps [S]; the first is the start, which cannot be a fall.
        gold: mean over the prompts at each step, [S].
        kl: KL from the start in nats, [S].
        at_kl: KL values in nats at which gold is read, so that runs can be compared at equal
            distance; at least one.
        start: gold where optimization began. By default, the first reading.
        window: number of readings that are averaged. Those before a whole window has passed are not
            looked at.
        prompts: name of each reading's prompt set, such as its fingerprint, [S]. Sets that differ
            are refused.

    Raises:
        InputError: if columns disagree, steps do not rise, prompts change, or `at_kl` is empty.

    Example:
        >>> gold = torch.tensor([0.0, 1.0, 0.5, -0.5, -2.0])
        >>> kl = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
        >>> run = stability([0, 10, 20, 30, 40], gold, kl, at_kl=[1.5, 9.0])
        >>> run.step, run.censored, run.peak_gold, run.gold_at_kl
        (30.0, False, 1.0, {1.5: 0.75, 9.0: None})
    """
    _check(steps, gold, kl, at_kl, window, prompts)
    start = float(gold[0]) if start is None else float(start)
    times = torch.tensor([float(step) for step in steps[window - 1 :]], dtype=torch.float64)
    smooth_gold = _window_means(gold, window)
    smooth_kl = _window_means(kl, window)
    after_start = times > float(steps[0])
    falls = ((smooth_gold < start) & after_start).nonzero()
    step = times[falls[0, 0]] if len(falls) else times[-1]
    peak = int(smooth_gold.argmax())
    at_values = {float(value): gold_at_kl(smooth_kl, smooth_gold, value) for value in at_kl}
    return Stability(
        step=step.item(),
        censored=len(falls) == 0,
        window=window,
        start=start,
        peak_gold=smooth_gold[peak].item(),
        peak_step=times[peak].item(),
        gold_at_kl=at_values,
    )


def _window_means(column: Tensor, window: int) -> Tensor:
    """Return the mean over each `window` neighboring readings, float64 [S - window + 1]."""
    readings = column.detach().double().cpu()
    return readings.unfold(0, window, 1).mean(1)


def gold_at_kl(kl: Tensor, gold: Tensor, value: float) -> float | None:
    """Return gold where the KL first reaches `value` nats; None if it never does.

    It is interpolated between the readings before and after.

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
    before = after - 1
    share = (value - kl[before]) / (kl[after] - kl[before])
    rise = gold[after] - gold[before]
    return float(gold[before] + share * rise)


@dataclass(frozen=True)
class Ratio:
    """How many times longer one set of runs stays good than another. See `stability_ratio`.

    Attributes:
        value: the ratio of medians, with censored runs taken at their last step.
        bound: "exact"; "at least" or "at most" where a median is only bounded; "unknown" where both
            are.
        low: the interval's lower end.
        high: the interval's upper end; infinite where runs did not fall.
        censored: number of runs of each set that did not fall.
        runs: number of runs of each set.
    """

    value: float
    bound: str
    low: float
    high: float
    censored: tuple[int, int]
    runs: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json; an infinite end becomes None."""
        plain = asdict(self)
        if not math.isfinite(self.high):
            plain["high"] = None
        return plain


class _Medians(NamedTuple):
    """Median steps of one set of runs, of which some are censored.

    Attributes:
        earliest: median if censored runs fell at their last step.
        latest: median if censored runs never fell; infinite where that decides.
        earliest_resampled: `earliest` of each bootstrap resample, [R].
        latest_resampled: `latest` of each bootstrap resample, [R].
    """

    earliest: np.float64
    latest: np.float64
    earliest_resampled: np.ndarray
    latest_resampled: np.ndarray

    @property
    def bounded(self) -> bool:
        """Tell whether the median is only bounded, since a censored run decides it."""
        return bool(self.earliest != self.latest)


def stability_ratio(
    first: Sequence[Stability],
    second: Sequence[Stability],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Ratio:
    """Return the ratio of the median steps of two sets of runs, with an interval over seeds.

    A censored run fell somewhere between its last step and infinity, so each bootstrap resample
    gives a lowest and a highest ratio. The interval goes from the low percentile of the lowest to
    the high percentile of the highest. A median is exact as long as less than half of the runs are
    censored, unless one was cut off before it. Few seeds make wide, coarse intervals, and fewer
    than about six too narrow ones.

    Args:
        first: runs of one method, each of another seed.
        second: runs of the method that it is compared with.
        confidence: level of the interval.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

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
            "A ratio with an interval needs two seeds or more on each side; "
            f"got {len(first)} and {len(second)}."
        )
    generator = np.random.default_rng(derive(seed, "stability"))
    top = _medians(first, resamples, generator)
    bottom = _medians(second, resamples, generator)
    tail = (1 - confidence) / 2
    lowest = top.earliest_resampled / bottom.latest_resampled
    highest = top.latest_resampled / bottom.earliest_resampled
    return Ratio(
        value=float(top.earliest / bottom.earliest),
        bound=_bound(top, bottom),
        low=float(np.quantile(lowest, tail, method="lower")),
        high=float(np.quantile(highest, 1 - tail, method="higher")),
        censored=(_censored(first), _censored(second)),
        runs=(len(first), len(second)),
    )


def _medians(runs: Sequence[Stability], resamples: int, generator: np.random.Generator) -> _Medians:
    """Return the median steps of a set of runs, and of bootstrap resamples of it."""
    ends = []
    for run in runs:
        latest = math.inf if run.censored else run.step
        ends.append([run.step, latest])
    times = np.array(ends)
    rows = generator.integers(len(runs), size=(resamples, len(runs)))
    medians = np.median(times, axis=0)
    resampled = np.median(times[rows], axis=1)
    return _Medians(
        earliest=medians[0],
        latest=medians[1],
        earliest_resampled=resampled[:, 0],
        latest_resampled=resampled[:, 1],
    )


def _bound(top: _Medians, bottom: _Medians) -> str:
    """Return what the ratio of medians is, if censored runs are taken at their last step."""
    if top.bounded and bottom.bounded:
        return "unknown"
    if top.bounded:
        return "at least"
    if bottom.bounded:
        return "at most"
    return "exact"


def _censored(runs: Sequence[Stability]) -> int:
    return sum(run.censored for run in runs)


def _check(
    steps: Sequence[float],
    gold: Tensor,
    kl: Tensor,
    at_kl: Sequence[float],
    window: int,
    prompts: Sequence[Prompt] | None,
) -> None:
    """Refuse columns that disagree, steps that do not rise, and prompts that change."""
    expected = [len(steps)]
    gold_shape = list(gold.shape)
    kl_shape = list(kl.shape)
    fits = 1 <= window < max(2, len(steps))
    if gold_shape != expected or kl_shape != expected or not fits:
        raise InputError(
            "stability needs a gold and a KL for each of S >= 2 steps, and a window of 1 to S - 1 "
            f"readings; got {len(steps)} steps, {gold_shape} and {kl_shape}, window={window}."
        )
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise InputError(
            "stability reads gold at rising steps. Are rows of several runs mixed, or was a run "
            "resumed twice?"
        )
    if not (gold.isfinite().all() and kl.isfinite().all()):
        raise InputError(
            "stability needs finite gold and KL at every step. Did the run diverge? Then cut it "
            "there."
        )
    if prompts is not None:
        _check_prompts(prompts, len(steps))
    if not at_kl:
        raise InputError(
            "stability is reported with gold at equal KL; give at_kl=, one or more values in nats."
        )


def _check_prompts(prompts: Sequence[Prompt], count: int) -> None:
    if len(prompts) != count or len(set(prompts)) > 1:
        raise InputError(
            "stability compares readings over one fixed set of prompts; "
            f"got {len(set(prompts))} sets."
        )
