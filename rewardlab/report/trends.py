"""Tell a trend of a curve from its noise, so that noise is not drawn as a trend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

FEWEST = 4  # values from which a curve's own noise can be told
SHARES = ("auc", "accuracy")  # figures from 0 to 1 that chance puts at 0.5


class Noise(NamedTuple):
    """The band that a curve's values stay in without any trend.

    Attributes:
        low: its lower end.
        high: its upper end.
        is_flat: whether the curve shows no change beyond its noise.
    """

    low: float
    high: float
    is_flat: bool


def noise_of(values: Sequence[float], half: float | None = None) -> Noise | None:
    """Return the noise of a curve, or None where it cannot be told.

    With a known half width the band is about the first value, and the curve is flat if it stays
    inside. Otherwise the noise is the standard deviation of the differences between neighbours,
    over √2, which a steady trend does not raise. The curve is flat if the means of its first and
    its last quarter differ by at most two standard errors.

    Args:
        values: the curve's finite values, in order.
        half: half the 95 % interval of a value, where it is known.

    Example:
        >>> noise_of([1.0, 2.0, 3.0, 4.0]).is_flat, noise_of([1.0, 1.2, 0.9, 1.1]).is_flat
        (False, True)
        >>> noise_of([3.408, 3.412, 3.418], half=0.1)
        Noise(low=3.308, high=3.508, is_flat=True)
    """
    if half is not None and values:
        low = values[0] - half
        high = values[0] + half
        return Noise(low, high, all(low <= value <= high for value in values))
    if len(values) < FEWEST:
        return None
    steps = [after - before for before, after in pairwise(values)]
    deviation = stdev(steps) / math.sqrt(2)
    quarter = max(1, len(values) // 4)
    change = fmean(values[-quarter:]) - fmean(values[:quarter])
    error = deviation * math.sqrt(2 / quarter)
    middle = fmean(values)
    low = middle - 2 * deviation
    return Noise(low, middle + 2 * deviation, abs(change) <= 2 * error)


def draw_curve(
    axes: Any,
    steps: Sequence[float],
    values: Sequence[float],
    colour: str,
    label: str,
    noise: Noise | None,
) -> None:
    """Draw a curve; one that is flat as dots in the band of its noise, without a line.

    Args:
        axes: of matplotlib.
        steps: the x values.
        values: the y values.
        colour: of curve and band.
        label: for the legend.
        noise: the curve's noise, if it can be told.
    """
    is_flat = noise is not None and noise.is_flat
    axes.plot(
        steps,
        values,
        color=colour,
        marker="." if is_flat or len(values) <= 60 else "",
        linestyle="none" if is_flat else "-",
        linewidth=1.4,
        label=label,
    )
    if noise is None:
        return
    if noise.is_flat:
        axes.axhspan(noise.low, noise.high, color=colour, alpha=0.1, linewidth=0)
        _leave_room(axes, noise)


def _leave_room(axes: Any, noise: Noise) -> None:
    """Let the axis show more than the band, so that noise does not fill the panel."""
    width = noise.high - noise.low or abs(noise.high) * 0.1 or 1.0
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, noise.low - width), max(top, noise.high + width))


def show_whole_share(axes: Any, name: str) -> None:
    """Let the axis of an AUC or an accuracy reach from chance to 1, as one sample is no cliff."""
    if name.lower().replace("_", "/").rsplit("/", 1)[-1] in SHARES:
        bottom, _ = axes.get_ylim()
        axes.set_ylim(min(bottom, 0.45), 1.02)
