"""Draw what judges and the reward read during training as means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rewardlab.report.figures import sig
from rewardlab.report.picture import Picture, canvas, drawable, legend_below, png_of
from rewardlab.report.rows import BASE, run_colours
from rewardlab.report.training_plots import reading_title
from rewardlab.runs.read import Run

Values = dict[float, float]  # a reading's values above its first one, by optimiser step
Readings = dict[str, Values]  # a run's, by name


class Pooled(NamedTuple):
    """One reading of runs that differ in nothing but seeds, at the steps that all of them have.

    Attributes:
        label: what the runs have in common.
        steps: optimiser steps.
        means: over the runs, above each run's start.
        lows: of the lowest run.
        highs: of the highest run.
    """

    label: str
    steps: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


def seed_curves(groups: Sequence[tuple[str, Sequence[Run]]]) -> Picture | None:
    """Draw readings of groups of runs, a panel a reading: the mean over seeds in their range.

    Args:
        groups: each with its label and its runs, which differ in nothing but seeds.
    """
    readings = [(label, list(map(_readings, runs))) for label, runs in groups]
    names = _names(readings)
    if not names:
        return None
    alt = []
    with canvas(5.6, 0.7 + 1.9 * len(names)) as figure:
        panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for name, axes in zip(names, panels, strict=True):
            for (label, runs), colour in zip(readings, run_colours(len(groups)), strict=True):
                pooled = _pooled(label, runs, name)
                if pooled is not None:
                    _draw(axes, pooled, colour)
                    alt.append(f"{label}: {name} ends {sig(pooled.means[-1])} from its start")
            axes.axhline(0, color=BASE, linewidth=0.8, zorder=1)
            axes.set_title(drawable(reading_title(name)), fontsize=9)
        panels[-1].set_xlabel("optimiser step")
        legend_below(figure, *panels[0].get_legend_handles_labels())
        png = png_of(figure)
    caption = (
        "A line is the mean over runs that differ in nothing but seeds, the band goes from the "
        "lowest to the highest of them. On fixed prompts and noise that no training sees. The "
        "reward rising while a judge falls below its start is over-optimisation."
    )
    return Picture("readings-over-seeds", png, f"{'; '.join(alt)}.", caption)


def _names(groups: Sequence[tuple[str, Sequence[Readings]]]) -> list[str]:
    names: set[str] = set()
    for _, runs in groups:
        names.update(*runs)
    return sorted(names, key=lambda name: (name == "kl", name == "reward", name))


def _readings(run: Run) -> Readings:
    """Return the readings of a run's last round that trained, each above its first value."""
    if run.kind == "fit" or not run.trained:
        return {}
    readings = {}
    for name, points in run.trained[-1].curves("reading/").items():
        if len(points) > 1:
            start = points[0][1]
            readings[name] = {step: value - start for step, value in points}
    return readings


def _pooled(label: str, runs: Sequence[Readings], name: str) -> Pooled | None:
    curves = [readings[name] for readings in runs if name in readings]
    if not curves:
        return None
    step_sets = [set(curve) for curve in curves]
    pooled = Pooled(label, sorted(set.intersection(*step_sets)), [], [], [])
    for step in pooled.steps:
        values = [curve[step] for curve in curves]
        pooled.means.append(fmean(values))
        pooled.lows.append(min(values))
        pooled.highs.append(max(values))
    return pooled


def _draw(axes: Any, pooled: Pooled, colour: str) -> None:
    """Draw the mean of a reading, in the range of its seeds."""
    axes.plot(
        pooled.steps,
        pooled.means,
        color=colour,
        marker=".",
        linewidth=1.4,
        label=drawable(pooled.label),
    )
    axes.fill_between(pooled.steps, pooled.lows, pooled.highs, color=colour, alpha=0.15, lw=0)
