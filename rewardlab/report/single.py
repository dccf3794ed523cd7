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
from rewardlab.report.gallery import gallery
from rewardlab.report.held_out import held_out_sentence
from rewardlab.report.markup import Block, Section, box, table, tag
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
from rewardlab.report.samples import shown_extremes
from rewardlab.report.text_table import scored_texts
from rewardlab.report.trends import draw_curve, noise_of, show_whole_share
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
    "A fit has no rounds and no judges: here is what it logged of its own training, and as "
    "`val/…` of its own held-out data."
)
# What a figure says, and what is good, by the last part of its name.
MEANINGS = {
    "loss": "What training lowers. On held-out data (val) it should fall too; where it rises, "
    "the fit learns its training data by heart.",
    "auc": "How often a target scores above a generated sample: 0.5 is chance, 1 always. 1 from "
    "the start may mean that something trivial separates them.",
    "accuracy": "How often the preferred one of a pair scores higher: 0.5 is chance, 1 always.",
    "calibration_error": "How far the predicted chances are from what came: 0 is best.",
    "ranking": "How alike two halves of the reward's heads order the generator's own samples: "
    "near 0 the order is noise, 1 is full agreement.",
    "disagreement": "Standard deviation between heads, in units of the score: small beside the "
    "spread of the scores is good.",
    "margin": "How far the preferred one leads, in units of the score.",
}


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


def logged_values(run: Run) -> dict[str, list[float]]:
    """Return the finite values of each column that a fit logged on held-out data."""
    values = {}
    for name, points in logged(run).items():
        finite = [value for _, value in points if math.isfinite(value)]
        if name.startswith("val") and finite:
            values[name] = finite
    return values


def fit_head(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what kind of run each is, what its held-out figures ended at, and what it left."""
    for run in runs:
        module = str(at(run.config, "model", "class_path") or "a module")
        name = module.rpartition(".")[2]
        first = f"{run.name} is a run of `rewardlab fit`: it trained by `{name}`."
        ends = [f"{name} {sig(values[-1])}" for name, values in logged_values(run).items()]
        if ends:
            first += f" At its end: {', '.join(ends)}."
        lines = [tag("p", first, "verdict")]
        held_out = held_out_sentence(run)
        if held_out:
            lines.append(tag("p", held_out))
        folders = [f"`{name}/`" for name in FOLDERS if (run.path / name).is_dir()]
        if folders:
            trained = " and ".join(folders)
            lines.append(tag("p", f"What it trained is in {trained}."))
        yield box("flat", *lines)
    yield tag("p", ABOUT_FITS, "soft")


def fit_sections(runs: Sequence[Run]) -> Iterator[Section]:
    """Yield the sections of fits: curves, where each began and ended, and origins."""
    logs = []
    names: dict[str, None] = {}
    colours = run_colours(len(runs))
    for run, colour in zip(runs, colours, strict=True):
        log = Logged(run.name, colour, logged(run))
        logs.append(log)
        names |= dict.fromkeys(log.columns)
    yield Section("Highest and lowest scores on held-out data", _extremes(runs))
    yield Section("Curves", _curves(names, logs))
    yield Section("Figures", [_ends_table(names, logs)])
    yield Section("Where it comes from", [origins(run) for run in runs])


def _extremes(runs: Sequence[Run]) -> list[Block]:
    """Return the held-out samples that each run's reward likes most and least."""
    blocks: list[Block] = []
    for run in runs:
        parts = shown_extremes(run)
        if parts and len(runs) > 1:
            blocks.append(tag("h3", run.name))
        for part in parts:
            if part.is_text:
                blocks.append(scored_texts(part))
            else:
                blocks += gallery([part], f"scored-{slug(run.name)}")
    return blocks


def _curves(names: Iterable[str], logs: Sequence[Logged]) -> list[Block]:
    """Return a curve for each column, and a sentence on those that have a single dot."""
    drawn = []
    single = []
    for name in names:
        counts = [len(log.columns.get(name, [])) for log in logs]
        if max(counts) > 1:
            drawn.append(_curve(name, logs))
        else:
            single.append(name)
    said = ""
    if single:
        said = tag(
            "p",
            f"Logged once, so there is no curve: {', '.join(single)}. Their values are in the "
            "table. A smaller `trainer.log_every_n_steps` logs more often.",
            "soft",
        )
    return [drawn, said]


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
    flat = []
    with canvas(5, 2.9) as figure:
        axes = figure.subplots()
        for log in logs_of_name:
            if _draw_line(axes, log, name):
                flat.append(log.run)
        show_whole_share(axes, name)
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
    return Picture(f"logged-{slug(name)}", png, alt, _caption(name, flat, len(logs)))


def _caption(name: str, flat: Sequence[str], run_count: int) -> str:
    """Say what a figure is, and where it shows no trend."""
    kind = name.rpartition("/")[2]
    sentences = [MEANINGS[kind]] if kind in MEANINGS else []
    if flat:
        who = f" in {', '.join(flat)}" if run_count > 1 else ""
        sentences.append(f"No change beyond its own noise{who} (the band): dots, not a line.")
    return " ".join(sentences)


def _draw_line(axes: Any, log: Logged, name: str) -> bool:
    """Draw the finite values of a column, and tell whether they show no trend."""
    points = [point for point in log.columns[name] if math.isfinite(point[1])]
    steps, values = split_points(points)
    noise = noise_of(values)
    draw_curve(axes, steps, values, log.colour, drawable(log.run), noise)
    return noise is not None and noise.is_flat


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
