"""Curves of a figure over what a claim varies, with their intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims.claim import Row
from claims.intervals import mean_of, values_of


def draw_curve(
    axes: Any,
    rows: Sequence[Row],
    places: Sequence[float],
    settings: Sequence[str],
    figure: str,
    **style: Any,
) -> None:
    """Draw the means of a figure, joined, with the 95 % interval of each over seeds.

    Args:
        axes: matplotlib's.
        rows: of all settings.
        places: where each setting stands on the horizontal axis.
        settings: in the order of the places.
        figure: a column of the rows.
        style: of `errorbar`, such as `label`.
    """
    means = [mean_of(values_of(rows, setting, figure)) for setting in settings]
    lows = [mean.value - mean.low for mean in means]
    highs = [mean.high - mean.value for mean in means]
    values = [mean.value for mean in means]
    style = {"marker": "o", "capsize": 3, **style}
    axes.errorbar(places, values, yerr=(lows, highs), **style)
