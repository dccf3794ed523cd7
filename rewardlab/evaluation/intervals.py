"""Shares with intervals, and differences of shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from rewardlab.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of two, between the ends of its interval.

    Attributes:
        value: the estimate.
        low: the interval's lower end.
        high: its upper end.
        count: independent units that it rests on, such as prompts; the fewer of the two in a
            difference.
    """

    value: float
    low: float
    high: float
    count: int


def wilson(value: float, count: int, confidence: float = 0.95) -> Estimate:
    """The shares p with |value - p| ≤ z·√(p(1 - p)/count). Wilson, JASA 22, 1927.

    It never shrinks to a point, even where all or none succeed. Units that are means in [0, 1]
    rather than 0 or 1 vary at most as much as p(1 - p), so there, and with ties counted one half,
    it is too wide rather than too narrow.

    Args:
        value: the mean over the units, in [0, 1].
        count: independent units, at least 1.
        confidence: of the interval, two-sided.

    Example:
        >>> estimate = wilson(1.0, 10)
        >>> round(estimate.low, 4), estimate.high
        (0.7225, 1.0)
    """
    if count < 1 or not 0 <= value <= 1:
        raise InputError(
            f"wilson needs a share in [0, 1] of at least one unit; got {value} of {count}."
        )
    square = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    scale = 1 / (1 + square / count)
    centre = (value + square / (2 * count)) * scale
    half = math.sqrt(square * (value * (1 - value) / count + square / (4 * count**2))) * scale
    return Estimate(
        value, min(max(0.0, centre - half), value), max(min(1.0, centre + half), value), count
    )


def difference(a: Estimate, b: Estimate) -> Estimate:
    """The difference a - b, its interval from the distances to both intervals' ends. Newcombe,
    Stat. Med. 17, 1998, method 10.

    It takes the two as independent. Shares over the same prompts mostly rise and fall together;
    then it is too wide.

    Example:
        >>> over = difference(wilson(0.9, 100), wilson(0.2, 100))
        >>> 0.5 < over.low < over.value < over.high < 0.8
        True
    """
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(value, low, high, min(a.count, b.count))
