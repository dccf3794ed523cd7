"""Make what a report says of runs that have no rounds.

These are the curves of a fit, and where the page of an attack or a curve is.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from rewardlab.report.figures import sig
from rewardlab.report.markup import Section, box, details, table, tag
from rewardlab.report.origins import origins
from rewardlab.report.picture import (
    Picture,
    Points,
    canvas,
    drawable,
    legend_below,
    png_of,
    slug,
    split_points,
)
from rewardlab.report.rows import run_colours
from rewardlab.report.run_tables import differences_table
from rewardlab.runs.layout import (
    ATTACK_PAGE,
    CURVE_PAGE,
    METRICS_FILE,
    POLICY_FOLDER,
    REWARD_FOLDER,
)
from rewardlab.runs.read import Run, at
from rewardlab.storage.metadata import read_text

FOLDERS = (POLICY_FOLDER, REWARD_FOLDER)
PAGES = {"attack": ATTACK_PAGE, "curve": CURVE_PAGE}
ABOUT_FITS = (
    "A fit has no rounds and no judges: here is what it logged of its own training and validation."
)


class Logged(NamedTuple):
    """What a fit logged.

    Attributes:
        run: the run's name.
        colour: its colour in every plot.
        columns: (step, value) by the column's name, the losses first.
    """

    run: str
    colour: str
    columns: dict[str, Points]


def logged(run: Run) -> dict[str, Points]:
    """Return each column of a fit's metrics.csv as (step, value), the losses first."""
    file = run.path / METRICS_FILE
    if not file.is_file():
        run.notes.append(f"curves: no {METRICS_FILE}, so nothing was logged yet")
        return {}
    rows = list(csv.DictReader(read_text(file).splitlines()))
    if not rows:
        return {}
    names = [name for name in rows[0] if name and name not in ("step", "epoch")]
    logged_points = {}
    for name in sorted(names, key=lambda name: ("loss" not in name, name)):
        points = _points(rows, name)
        if points:
            logged_points[name] = points
    return logged_points


def _points(rows: Sequence[Mapping[str, str]], name: str) -> Points:
    """Return (step, value) of each row that has both."""
    points = []
    for row in rows:
        if row["step"] and row[name]:
            step = _number(row["step"])
            value = _number(row[name])
            points.append((step, value))
    return points


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def fit_head(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what kind of run each is, and what it left."""
    for run in runs:
        module = str(at(run.config, "model", "class_path") or "a module")
        first = f"{run.name} is a run of `rewardlab fit`: {module}."
        lines = [tag("p", first, "verdict")]
        folders = [f"{name}/" for name in FOLDERS if (run.path / name).is_dir()]
        if folders:
            trained = " and ".join(folders)
            lines.append(tag("p", f"What it trained is in {trained}."))
        yield box("flat", *lines)
    yield tag("p", ABOUT_FITS, "soft")


def fit_sections(runs: Sequence[Run]) -> Iterator[Section]:
    """Yield the sections of fits: curves, where each began and ended, settings and origins."""
    logs = []
    names: dict[str, None] = {}
    colours = run_colours(len(runs))
    for run, colour in zip(runs, colours, strict=True):
        log = Logged(run.name, colour, logged(run))
        logs.append(log)
        names |= dict.fromkeys(log.columns)
    yield Section("Curves", [[_curve(name, logs) for name in names]])
    yield Section("Figures", [_ends_table(names, logs)])
    yield Section("Settings", [details("What the runs differ in", differences_table(runs))])
    yield Section("Where it comes from", [origins(run) for run in runs])


def _ends_table(names: Iterable[str], logs: Sequence[Logged]) -> str:
    """Return where each column of each run began and ended."""
    lines = []
    for name in names:
        for log in logs:
            if name in log.columns:
                label = name if len(logs) == 1 else f"{name}, {log.run}"
                ends = _ends(log.columns[name])
                lines.append([label, *ends])
    head = ["", "first", "last", "lowest", "highest", "last step"]
    return table(head, lines, f"Of {METRICS_FILE}.")


def _ends(points: Points) -> list[str]:
    """Return the first, last, lowest and highest value, and the last step."""
    steps, values = split_points(points)
    finite = [value for value in values if math.isfinite(value)]
    lowest = min(finite, default=None)
    highest = max(finite, default=None)
    return [
        sig(values[0]),
        sig(values[-1]),
        sig(lowest),
        sig(highest),
        f"{steps[-1]:g}",
    ]


def _curve(name: str, logs: Sequence[Logged]) -> Picture:
    """Draw one column of metrics.csv over optimiser steps, one line a run."""
    logs_of_name = [log for log in logs if name in log.columns]
    with canvas(5, 2.9) as figure:
        axes = figure.subplots()
        for log in logs_of_name:
            _draw_line(axes, log, name)
        axes.set_title(drawable(name))
        axes.set_xlabel("optimiser step")
        if len(logs) > 1:
            legend_below(figure)
        png = png_of(figure)
    lines = []
    for log in logs_of_name:
        first, last, *_ = _ends(log.columns[name])
        lines.append(f"{log.run} {first} to {last}")
    alt = f"{name} over training steps: {'; '.join(lines)}."
    return Picture(f"logged-{slug(name)}", png, alt, "")


def _draw_line(axes: Any, log: Logged, name: str) -> None:
    """Draw the finite values of a column; few points have a marker each."""
    points = [point for point in log.columns[name] if math.isfinite(point[1])]
    steps, values = split_points(points)
    axes.plot(
        steps,
        values,
        color=log.colour,
        marker="." if len(points) <= 60 else "",
        linewidth=1.4,
        label=drawable(log.run),
    )


def pointer(runs: Sequence[Run], kind: str, folder: Path) -> list[str]:
    """Return the blocks of runs that have a page of their own, with links to it.

    Args:
        runs: of one kind.
        kind: "attack" or "curve".
        folder: where the report will be.
    """
    blocks = []
    for run in runs:
        sentence = at(run.results, "verdict", "sentence") or ""
        first = f"{run.name} is a run of `rewardlab {kind}`. {sentence}".strip()
        second = _link(run.path / PAGES[kind], folder)
        blocks.append(box("flat", tag("p", first, "verdict"), second))
    return blocks


def _link(page: Path, folder: Path) -> str:
    """Return a link from a page in `folder`, or say that the page is missing."""
    if not page.is_file():
        return tag(
            "p",
            f"It has no {page.name}, so it has not finished: "
            "the same command with --resume goes on.",
        )
    path = os.path.relpath(page, os.path.abspath(folder))
    address = quote(Path(path).as_posix())
    return f'<p>Its page is <a href="{address}">{tag("code", path)}</a>.</p>'
