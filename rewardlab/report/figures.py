"""Figures with intervals: {"mean", "low", "high"} as results.json keeps them, how they compare, and
how they are written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

Movement = Literal["same", "level", "toward", "away", "beside", "changed", "unknown"]


def mean(figure: Any) -> float | None:
    """Return a figure's mean, or None where there is none.

    Example:
        >>> mean({"mean": 0.5}), mean({})
        (0.5, None)
    """
    value = figure.get("mean") if isinstance(figure, Mapping) else figure
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def interval(figure: Any) -> tuple[float, float] | None:
    """Return (low, high) of a figure, or None where it has no finite interval."""
    low, high = (
        mean(figure.get(end)) if isinstance(figure, Mapping) else None for end in ("low", "high")
    )
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return min(low, high), max(low, high)


def sig(value: float | None) -> str:
    """Write a number with three significant digits, a missing one as a dash.

    Example:
        >>> sig(0.95), sig(-12.345), sig(12345.6), sig(0.0000123), sig(None)
        ('0.950', '−12.3', '12,346', '1.23e−05', '–')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "NaN")
    text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def with_interval(figure: Any) -> str:
    """Write a figure as "mean [low, high]", without the interval where it has none.

    Example:
        >>> with_interval({"mean": 0.5, "low": 0.4, "high": 0.6}), with_interval({"mean": 0.5}), with_interval({})
        ('0.500 [0.400, 0.600]', '0.500', '–')
    """
    ends = interval(figure)
    return sig(mean(figure)) + (
        f" [{sig(ends[0])}, {sig(ends[1])}]" if ends and mean(figure) is not None else ""
    )


def change(before: Any, after: Any) -> Literal["rose", "fell", "same", "unknown"]:
    """Say whether a figure rose or fell; "same" where the intervals overlap.

    Example:
        >>> change({"mean": 1, "low": 0.9, "high": 1.1}, {"mean": 2, "low": 1.9, "high": 2.1})
        'rose'
    """
    first = interval(before)
    second = interval(after)
    if first is None or second is None:
        return "unknown"
    if second[0] > first[1]:
        return "rose"
    return "fell" if second[1] < first[0] else "same"


def movement(before: Any, after: Any, target: Any) -> Movement:
    """Say whether a figure moved toward the targets' own value or away from it, beyond the
    intervals.

    Returns:
        "same" where the intervals before and after overlap; "toward" where all of the interval
        after is nearer to the targets' value than all of the interval before, or meets the targets'
        interval as the one before did not; "level" where both meet it; "away" where all of it is
        farther; "beside" where it is about as far, on the other side, say; "changed" where the
        targets' value is not known; "unknown" where an interval is missing.

    Example:
        >>> low, high = ({"mean": m, "low": m - 0.01, "high": m + 0.01} for m in (0.3, 0.4))
        >>> movement(low, high, {"mean": 0.4}), movement(high, low, {"mean": 0.4}), movement(low, low, {"mean": 0.4})
        ('toward', 'away', 'same')
    """
    difference = change(before, after)
    value = mean(target)
    if difference in ("same", "unknown"):
        return difference  # type: ignore[return-value]
    if value is None or not math.isfinite(value):
        return "changed"
    nearer = _gap(before, value)
    farther = _gap(after, value)
    if change(target, after) == "same":
        return "level" if change(target, before) == "same" else "toward"
    if farther[1] < nearer[0]:
        return "toward"
    return "away" if farther[0] > nearer[1] else "beside"


def _gap(figure: Any, value: float) -> tuple[float, float]:
    """The least and greatest distance of an interval from `value`."""
    low, high = interval(figure)  # type: ignore[misc]
    least = 0.0 if low <= value <= high else min(abs(low - value), abs(high - value))
    return least, max(abs(low - value), abs(high - value))
