"""Shares with intervals, and differences of shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from rewardlab.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of two, with its interval.

    Attributes:
        value: the estimate.
        low: the interval's lower end.
        high: the interval's upper end.
        count: number of independent units that the estimate rests on, such as prompts; in a
            difference, the fewer of the two.
    """

    value: float
    low: float
    high: float
    count: int


def wilson(value: float, count: int, confidence: float = 0.95) -> Estimate:
    """Return a share with Wilson's interval. Wilson, JASA 22, 1927.

    The interval holds the shares p with |value - p| ≤ z·√(p(1 - p)/count). It never shrinks to a
    point, even where all or none succeed. Units that are means in [0, 1] rather than 0 or 1 vary at
    most as much as p(1 - p). So there, and with ties counted one half, the interval is too wide
    rather than too narrow.

    Args:
        value: the mean over the units, in [0, 1].
        count: number of independent units, at least 1.
        confidence: level of the interval, two-sided.

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
    center = (value + square / (2 * count)) * scale
    variance = value * (1 - value) / count + square / (4 * count**2)
    half_width = math.sqrt(square * variance) * scale
    low = max(0.0, center - half_width)
    high = min(1.0, center + half_width)
    return Estimate(
        value=value,
        low=min(low, value),
        high=max(high, value),
        count=count,
    )


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return a - b with Newcombe's interval. Newcombe, Stat. Med. 17, 1998, method 10.

    The interval comes from the distances to the ends of both intervals. It takes the two as
    independent. Shares over the same prompts mostly rise and fall together; then it is too wide.

    Example:
        >>> over = difference(wilson(0.9, 100), wilson(0.2, 100))
        >>> 0.5 < over.low < over.value < over.high < 0.8
        True
    """
    value = a.value - b.value
    below = math.hypot(a.value - a.low, b.high - b.value)
    above = math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(
        value=value,
        low=value - below,
        high=value + above,
        count=min(a.count, b.count),
    )
