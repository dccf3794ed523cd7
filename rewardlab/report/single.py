"""What a report says of runs that have no rounds: the curves of a fit, and where the page of an
attack or a curve is.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from rewardlab.report.figures import sig
from rewardlab.report.markup import table, tag
from rewardlab.report.picture import Picture, canvas, drawable, png_of, slug
from rewardlab.report.rows import RUNS
from rewardlab.runs.read import Run, at
from rewardlab.storage.metadata import read_text

Points = list[tuple[float, float]]
FOLDERS = ("policy", "reward")


def logged(run: Run) -> dict[str, Points]:
    """Return each column of a fit's metrics.csv as (step, value), the losses first."""
    file = run.path / "metrics.csv"
    if not file.is_file():
        run.notes.append("curves: no metrics.csv, so nothing was logged yet")
        return {}
    rows = list(csv.DictReader(read_text(file).splitlines()))
    names = [name for name in (rows[0] if rows else ()) if name and name not in ("step", "epoch")]
    points = {
        name: [
            (_number(row["step"]), _number(row[name])) for row in rows if row["step"] and row[name]
        ]
        for name in names
    }
    filled = {name: found for name, found in points.items() if found}
    return {
        name: filled[name] for name in sorted(filled, key=lambda name: ("loss" not in name, name))
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def fit_head(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what kind of run each is, and what it left."""
    for run in runs:
        module = str(at(run.config, "model", "class_path") or "a module")
        left = [name for name in FOLDERS if (run.path / name).is_dir()]
        words = (
            f"What it trained is in {' and '.join(f'{name}/' for name in left)}." if left else ""
        )
        lines = [
            tag("p", f"{run.name} is a run of `rewardlab fit`: {module}.", "verdict"),
            tag("p", words) if words else "",
        ]
        yield f'<div class="run flat">{"".join(lines)}</div>'
    yield tag(
        "p",
        "A fit has no rounds and no judges: here is what it logged of its own training and validation.",
        "soft",
    )


def fit_sections(runs: Sequence[Run]) -> Iterator[tuple[str, list[str | list[Picture]]]]:
    """Yield the curves, one picture a column with a line a run, and where each began and ended."""
    found = {run.name: logged(run) for run in runs}
    names = list(dict.fromkeys(name for columns in found.values() for name in columns))
    pictures = [
        _curve(
            name, {run: columns[name] for run, columns in found.items() if name in columns}, found
        )
        for name in names
    ]
    yield "Curves", [pictures]
    lines = [
        [name if len(runs) == 1 else f"{name}, {run}", *_ends(columns[name])]
        for name in names
        for run, columns in found.items()
        if name in columns
    ]
    yield (
        "Figures",
        [table(["", "first", "last", "lowest", "highest", "last step"], lines, "Of metrics.csv.")],
    )


def _ends(points: Points) -> list[str]:
    values = [value for _, value in points if math.isfinite(value)]
    ends = (min(values), max(values)) if values else (None, None)
    return [*map(sig, (points[0][1], points[-1][1], *ends)), f"{points[-1][0]:g}"]


def _curve(name: str, curves: dict[str, Points], order: Collection[str]) -> Picture:
    """Draw one column of metrics.csv over optimiser steps, one line a run."""
    colours = {run: RUNS[i % len(RUNS)] for i, run in enumerate(order)}
    with canvas(5, 2.9) as figure:
        axes = figure.subplots()
        for run, points in curves.items():
            shown = [point for point in points if math.isfinite(point[1])]
            marker = "." if len(shown) <= 60 else ""
            axes.plot([x for x, _ in shown], [y for _, y in shown], color=colours[run], marker=marker, linewidth=1.4,
                      label=drawable(run))  # fmt: skip
        axes.set(title=drawable(name), xlabel="optimiser step")
        if len(order) > 1:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        png = png_of(figure)
    said = "; ".join(
        f"{run} {sig(points[0][1])} to {sig(points[-1][1])}" for run, points in curves.items()
    )
    return Picture(f"logged-{slug(name)}", png, f"{name} over training steps: {said}.", "")


def pointer(runs: Sequence[Run], kind: str, beside: Path) -> list[str]:
    """Return the blocks of runs that have a page of their own, with links from a page in the folder
    `beside`.

    Args:
        runs: of one kind.
        kind: "attack" or "curve".
        beside: where the report will be.
    """
    blocks = []
    for run in runs:
        page = run.path / f"{kind}.html"
        said = at(run.results, "verdict", "sentence")
        lines = [
            tag("p", f"{run.name} is a run of `rewardlab {kind}`. {said or ''}".strip(), "verdict")
        ]
        if page.is_file():
            place = os.path.relpath(page, os.path.abspath(beside))
            lines.append(
                f'<p>Its page is <a href="{quote(Path(place).as_posix())}">{tag("code", place)}</a>.</p>'
            )
        else:
            lines.append(
                tag(
                    "p",
                    f"It has no {kind}.html, so it has not finished: the same command with --resume goes on.",
                )
            )
        blocks.append(f'<div class="run flat">{"".join(lines)}</div>')
    return blocks
