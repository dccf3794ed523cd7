"""Means with their intervals over seeds, drawn in one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims.claim import Row
from claims.intervals import Interval, mean_of, values_of


def means_of(rows: Sequence[Row], settings: Sequence[str], figure: str) -> list[Interval]:
    """Return the mean of a figure in each setting, with its interval over seeds."""
    return [mean_of(values_of(rows, setting, figure)) for setting in settings]


def draw_means(axes: Any, places: Sequence[float], means: Sequence[Interval], **style: Any) -> None:
    """Draw means over places on the horizontal axis, joined, with whiskers to the intervals' ends.

    Args:
        axes: matplotlib's.
        places: where each mean stands.
        means: with their intervals.
        style: of `errorbar`, such as `label`, or `fmt="o"` for points that are not joined.
    """
    values, widths = _parts(means)
    axes.errorbar(places, values, yerr=widths, **_styled(style))


def draw_means_across(
    axes: Any, places: Sequence[float], means: Sequence[Interval], **style: Any
) -> None:
    """Draw means beside places on the vertical axis, with whiskers to the intervals' ends."""
    values, widths = _parts(means)
    axes.errorbar(values, places, xerr=widths, **_styled({"fmt": "o", **style}))


def _parts(means: Sequence[Interval]) -> tuple[list[float], list[list[float]]]:
    """Return the means, and how far the intervals reach below and above them."""
    values = [mean.value for mean in means]
    below = [mean.value - mean.low for mean in means]
    above = [mean.high - mean.value for mean in means]
    return values, [below, above]


def _styled(style: dict[str, Any]) -> dict[str, Any]:
    """Return a style with what all whiskers share; a format names a marker of its own."""
    shared: dict[str, Any] = {"capsize": 3}
    if "fmt" not in style:
        shared["marker"] = "o"
    return {**shared, **style}
