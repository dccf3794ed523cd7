"""Read, compare and write figures: {"mean", "low", "high"}, as results.json keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

MISSING = "–"
Movement = Literal["same", "level", "toward", "away", "beside", "changed", "unknown"]


class Interval(NamedTuple):
    """The ends of a 95 % interval, or the least and the greatest of some distances."""

    low: float
    high: float


def mean(figure: Any) -> float | None:
    """Return a figure's mean, or None where there is none.

    Example:
        >>> mean({"mean": 0.5}), mean({})
        (0.5, None)
    """
    if isinstance(figure, Mapping):
        figure = figure.get("mean")
    if isinstance(figure, bool):
        return None
    if isinstance(figure, int | float):
        return float(figure)
    return None


def interval(figure: Any) -> Interval | None:
    """Return the interval of a figure, or None where it has no finite one.

    Example:
        >>> interval({"mean": 0.5, "low": 0.4, "high": 0.6})
        Interval(low=0.4, high=0.6)
    """
    if not isinstance(figure, Mapping):
        return None
    low = mean(figure.get("low"))
    high = mean(figure.get("high"))
    if low is None or not math.isfinite(low):
        return None
    if high is None or not math.isfinite(high):
        return None
    return Interval(min(low, high), max(low, high))


def sig(figure: Any) -> str:
    """Return a number, or a figure's mean, with three significant digits; a dash if it is missing.

    Example:
        >>> sig(0.95), sig(-12.345), sig(12345.6), sig(0.0000123)
        ('0.950', '−12.3', '12,346', '1.23e−05')
        >>> sig({"mean": 0.95}), sig(None)
        ('0.950', '–')
    """
    value = mean(figure)
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    text = f"{value:#.3g}".rstrip(".")
    if abs(value) >= 999.5:
        text = f"{value:,.0f}"
    return text.replace("-", "−")


def with_interval(figure: Any) -> str:
    """Return a figure as "mean [low, high]", without the interval where it has none.

    Example:
        >>> with_interval({"mean": 0.5, "low": 0.4, "high": 0.6})
        '0.500 [0.400, 0.600]'
        >>> with_interval({"mean": 0.5}), with_interval({})
        ('0.500', '–')
    """
    ends = interval(figure)
    if ends is None or mean(figure) is None:
        return sig(figure)
    low = sig(ends.low)
    high = sig(ends.high)
    return f"{sig(figure)} [{low}, {high}]"


def change(before: Any, after: Any) -> Literal["rose", "fell", "same", "unknown"]:
    """Return whether a figure rose or fell; "same" where the intervals overlap.

    Example:
        >>> change({"mean": 1, "low": 0.9, "high": 1.1}, {"mean": 2, "low": 1.9, "high": 2.1})
        'rose'
    """
    first = interval(before)
    second = interval(after)
    if first is None or second is None:
        return "unknown"
    if second.low > first.high:
        return "rose"
    if second.high < first.low:
        return "fell"
    return "same"


def movement(before: Any, after: Any, target: Any) -> Movement:
    """Return whether a figure moved toward the targets' own value, beyond the intervals.

    Returns:
        "same" where the intervals before and after overlap.
        "toward" where all of the interval after is nearer to the targets' value than all of the
        interval before, or where it meets the targets' interval as the one before did not.
        "level" where both intervals meet the targets' interval.
        "away" where all of the interval after is farther.
        "beside" where it is about as far, for example on the other side.
        "changed" where the targets' value is not known.
        "unknown" where an interval is missing.

    Example:
        >>> low = {"mean": 0.3, "low": 0.29, "high": 0.31}
        >>> high = {"mean": 0.4, "low": 0.39, "high": 0.41}
        >>> movement(low, high, {"mean": 0.4}), movement(high, low, {"mean": 0.4})
        ('toward', 'away')
        >>> movement(low, low, {"mean": 0.4})
        'same'
    """
    difference = change(before, after)
    value = mean(target)
    if difference in ("same", "unknown"):
        return difference
    if value is None or not math.isfinite(value):
        return "changed"
    if change(target, after) == "same":
        if change(target, before) == "same":
            return "level"
        return "toward"
    gap_before = _gap(before, value)
    gap_after = _gap(after, value)
    if gap_after.high < gap_before.low:
        return "toward"
    if gap_after.low > gap_before.high:
        return "away"
    return "beside"


def _gap(figure: Any, value: float) -> Interval:
    """Return the least and the greatest distance of a figure's interval from `value`."""
    ends = interval(figure)
    assert ends is not None  # a change was seen, so both intervals are there
    to_low = abs(ends.low - value)
    to_high = abs(ends.high - value)
    if ends.low <= value <= ends.high:
        return Interval(0.0, max(to_low, to_high))
    return Interval(min(to_low, to_high), max(to_low, to_high))
