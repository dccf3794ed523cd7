"""Draw what guards, judges and the reward read during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rewardlab.report.figures import interval, sig
from rewardlab.report.picture import (
    Picture,
    Points,
    canvas,
    drawable,
    legend_below,
    png_of,
    split_points,
)
from rewardlab.report.rows import BASE, Row
from rewardlab.report.statements import listed
from rewardlab.report.trends import Noise, draw_curve, noise_of
from rewardlab.runs.read import Step, at

READING_TITLES = {
    "reward": "reward, each run's own, over its start",
    "kl": "KL from the start, nats an output",
    "outliers": "share of outliers (MOP), over its start",
    "norm_ratio": "velocities over the reference's, over their start",
}


def reading_title(name: str) -> str:
    """Return what stands above a reading's panel; what is no monitor of ours is a judge.

    Example:
        >>> reading_title("outliers"), reading_title("gold")
        ('share of outliers (MOP), over its start', 'gold (judge), over its start')
    """
    return READING_TITLES.get(name, f"{name} (judge), over its start")


class Curves(NamedTuple):
    """The readings of a round that trained.

    Attributes:
        row: the round's row.
        step: the round.
        readings: (optimiser step, value) by the reading's name.
    """

    row: Row
    step: Step
    readings: dict[str, Points]


def guard_curves(rows: Sequence[Row]) -> Picture | None:
    """Draw what guards read during training, over optimiser steps.

    There is one panel a monitor, the reward's score first, and one line a round. What was read
    once only has no panel. A reading that shows no change beyond its noise has no line.
    """
    curves = _curves(rows, "guard/")
    names = sorted(_names(curves), key=lambda name: (name != "score", name))
    if not names:
        return None
    with canvas(5, 0.7 + 1.55 * len(names)) as figure:
        panels = _panels(figure, len(names))
        for name, axes in zip(names, panels, strict=True):
            for curve in curves:
                _draw_guard(axes, curve, name)
            title = "reward score" if name == "score" else f"{name} (worse when higher)"
            axes.set_title(title, fontsize=9)
        _finish(figure, panels)
        png = png_of(figure)
    labels = _labels(curves)
    alt = f"Guard readings over training steps of {labels}. {_ends(curves)}."
    return Picture("guard", png, alt, _guard_caption(curves))


def _guard_caption(curves: Sequence[Curves]) -> str:
    """Say how guard readings are read, and which of them show no change."""
    flat = []
    for curve in curves:
        for name in curve.readings:
            noise = _noise(curve, name)
            if noise is not None and noise.is_flat:
                flat.append(f"{_title(name)} of {curve.row.label}")
    sentences = [
        "The reward going up while a monitor below it goes up too is the sign of over-optimisation"
    ]
    if any(curve.step.guard_stop is not None for curve in curves):
        sentences[0] += "; a dotted line is where the guard stopped"
    if flat:
        sentences.append(
            f"No change beyond the noise of a reading, which is the band: {listed(flat)}"
        )
    return f"{'. '.join(sentences)}."


def _title(name: str) -> str:
    return "the reward score" if name == "score" else name


def _draw_guard(axes: Any, curve: Curves, name: str) -> None:
    """Draw one reading of a round, and where its guard stopped."""
    if name not in curve.readings:
        return
    steps, values = split_points(curve.readings[name])
    label = drawable(curve.row.label)
    draw_curve(axes, steps, values, curve.row.colour, label, _noise(curve, name))
    stop = curve.step.guard_stop
    if stop is not None:
        axes.axvline(stop, color=curve.row.colour, linestyle=":", linewidth=1)


def _noise(curve: Curves, name: str) -> Noise | None:
    """Return the noise of a reading: of the score, the interval that it had before the round."""
    _, values = split_points(curve.readings[name])
    if name not in ("score", "reward"):
        return noise_of(values)
    ends = interval(at(curve.row.separation, "score_before"))
    half = None if ends is None else (ends.high - ends.low) / 2
    return noise_of(values, half)


def reading_curves(rows: Sequence[Row]) -> Picture | None:
    """Draw what judges and the reward said during training, each less its start.

    There is one panel a judge, then the reward and the KL, and one line a round.
    """
    curves = [curve for curve in _curves(rows, "reading/") if curve.readings]
    names = sorted(_names(curves), key=lambda name: (name == "kl", name == "reward", name))
    if not names:
        return None
    with canvas(5.6, 0.7 + 1.9 * len(names)) as figure:
        panels = _panels(figure, len(names))
        for name, axes in zip(names, panels, strict=True):
            for curve in curves:
                _draw_reading(axes, curve, name)
            axes.axhline(0, color=BASE, linewidth=0.8, zorder=1)
            axes.set_title(drawable(reading_title(name)), fontsize=9)
        _finish(figure, panels)
        png = png_of(figure)
    labels = _labels(curves)
    ends = _ends(curves, with_highest=True)
    alt = f"Judges and reward over training steps of {labels}. {ends}."
    caption = (
        "On fixed prompts and noise that no training sees. The reward rising while a judge falls "
        "below its start is over-optimisation. Rewards of different runs have different scales."
    )
    return Picture("readings", png, alt, caption)


def _draw_reading(axes: Any, curve: Curves, name: str) -> None:
    """Draw one reading of a round, less its first value."""
    if name in curve.readings:
        steps, values = split_points(curve.readings[name])
        above = [value - values[0] for value in values]
        noise = noise_of(above)
        draw_curve(axes, steps, above, curve.row.colour, drawable(curve.row.label), noise)


def _curves(rows: Sequence[Row], prefix: str) -> list[Curves]:
    """Return the readings under `prefix` of each round that trained its policy."""
    curves = []
    for row in rows:
        if row.step and at(row.figures, "post_train"):
            readings = {}
            for name, points in row.step.curves(prefix).items():
                if len(points) > 1:  # a single dot shows no course
                    readings[name] = points
            curves.append(Curves(row, row.step, readings))
    return curves


def _names(curves: Sequence[Curves]) -> set[str]:
    names: set[str] = set()
    for curve in curves:
        names.update(curve.readings)
    return names


def _labels(curves: Sequence[Curves]) -> str:
    return listed([curve.row.label for curve in curves])


def _panels(figure: Any, count: int) -> Any:
    """Return the axes of `count` panels, one below the other."""
    return figure.subplots(count, sharex=True, squeeze=False)[:, 0]


def _finish(figure: Any, panels: Any) -> None:
    panels[-1].set_xlabel("optimiser step")
    legend_below(figure, *panels[0].get_legend_handles_labels())


def _ends(curves: Sequence[Curves], with_highest: bool = False) -> str:
    """Say where each reading began and ended, and how high it was."""
    ends = []
    for curve in curves:
        for name, points in curve.readings.items():
            _, values = split_points(points)
            first = sig(values[0])
            last = sig(values[-1])
            text = f"{curve.row.label}: {name} {first} to {last}"
            if with_highest:
                text += f", highest {sig(max(values))}"
            ends.append(text)
    return "; ".join(ends)
