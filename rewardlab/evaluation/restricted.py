"""Restricted means: how long runs last on average up to a horizon, and how two sets compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.seeds import derive


class Interval(NamedTuple):
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float


def first_fall(
    steps: Sequence[float], gold: Tensor, *, margin: float = 0.0, window: int = 1
) -> float | None:
    """Return the first step at which windowed gold is below its start less a margin.

    Args:
        steps: rising steps [S]; the first is the start, which cannot be a fall.
        gold: at each step, [S].
        margin: how far below the first reading counts as a fall, in gold's units.
        window: readings that are averaged.

    Returns:
        The step, or None if gold did not fall within the run.

    Raises:
        InputError: if the columns disagree, or the window is longer than the run.

    Example:
        >>> import torch
        >>> first_fall([0, 10, 20], torch.tensor([1.0, 0.95, 0.5]), margin=0.1)
        20.0
    """
    if gold.shape != (len(steps),) or not 1 <= window < max(2, len(steps)):
        raise InputError(
            f"first_fall needs a gold for each of its steps, and a window within them; got "
            f"{len(steps)} steps, gold {list(gold.shape)} and window={window}."
        )
    means = gold.double().unfold(0, window, 1).mean(1)
    for step, value in zip(steps[window - 1 :], means.tolist(), strict=True):
        if step > steps[0] and value < gold[0].item() - margin:
            return float(step)
    return None


def restricted_mean(falls: Sequence[float | None], horizon: float) -> float:
    """Return the mean of min(fall, horizon): the area under the curve of runs that still stand.

    It needs no guess about runs that did not fall, and no more than half of them to fall, which
    medians do (Royston and Parmar, BMC Medical Research Methodology 13, 2013). All runs have to
    have been watched up to the horizon, or to their fall.

    Example:
        >>> restricted_mean([50.0, None, 400.0], horizon=200)
        150.0
    """
    return float(_restricted(falls, horizon).mean())


def restricted_ratio(
    first: Sequence[float | None],
    second: Sequence[float | None],
    horizon: float,
    *,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Return the ratio of two restricted means, with a paired bootstrap interval over seeds.

    Args:
        first: falls of one method, a seed each; None where a run did not fall.
        second: of the other, in the same order of seeds.
        horizon: step up to which all runs were watched.
        confidence: level of the interval.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        InputError: if there are not two pairs or more.

    Example:
        >>> ratio = restricted_ratio([200.0, None, None], [100.0, 50.0, 100.0], horizon=200)
        >>> round(ratio.value, 2), ratio.low
        (2.4, 2.0)
    """
    if len(first) != len(second) or len(first) < 2:
        raise InputError(
            "A paired ratio needs two seeds or more, the same on both sides; got "
            f"{len(first)} and {len(second)}."
        )
    top = _restricted(first, horizon)
    bottom = _restricted(second, horizon)
    generator = np.random.default_rng(derive(seed, "restricted"))
    rows = generator.integers(len(top), size=(resamples, len(top)))
    ratios = top[rows].mean(1) / bottom[rows].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(float(top.mean() / bottom.mean()), float(low), float(high))


def _restricted(falls: Sequence[float | None], horizon: float) -> np.ndarray:
    times = [horizon if fall is None else min(fall, horizon) for fall in falls]
    return np.array(times, dtype=np.float64)
