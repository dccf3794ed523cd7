"""Name what was judged: the rows that tables and plots share.

These are the real targets, the base, and each round of each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewardlab.report.figures import mean
from rewardlab.runs.read import Run, Step, at

TARGETS = "#2e7d4f"
BASE = "#80868f"
RUNS = ("#0072b2", "#d55e00", "#aa4499", "#e69f00", "#56b4e9", "#332288", "#882255", "#117733")


@dataclass(frozen=True)
class Row:
    """One thing that was judged.

    Attributes:
        label: its name.
        colour: the same in every plot.
        judged: the judges' figures.
        kind: "targets", "base" or "step".
        step: the round, where it is one.
    """

    label: str
    colour: str
    judged: dict[str, Any]
    kind: str
    step: Step | None = None

    @property
    def figures(self) -> Any:
        """Return all figures of the round; empty where the row is no round."""
        if self.step is None:
            return {}
        return self.step.figures

    @property
    def separation(self) -> Any:
        """Return scores and AUCs of the round's reward; empty where the row is no round."""
        if self.step is None:
            return {}
        return self.step.separation


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Return the targets, the bases and the rounds, in this order.

    What several runs share comes once.
    """
    targets = []
    bases = []
    for run in runs:
        targets.append(Row("targets (real)", TARGETS, run.targets, "targets"))
        bases.append(Row("base", BASE, run.base, "base"))
    return [*_once(targets, runs), *_once(bases, runs), *step_rows(runs)]


def step_rows(runs: Sequence[Run]) -> list[Row]:
    """Return the rounds of each run, a run's rounds in one colour."""
    rows = []
    colours = run_colours(len(runs))
    for run, colour in zip(runs, colours, strict=True):
        for step in run.steps:
            label = _label(step, len(runs))
            rows.append(Row(label, colour, step.judged, "step", step))
    return rows


def run_colours(count: int) -> list[str]:
    """Return a colour for each of `count` runs; they repeat after eight.

    Example:
        >>> run_colours(2)
        ['#0072b2', '#d55e00']
    """
    return [RUNS[i % len(RUNS)] for i in range(count)]


def _label(step: Step, run_count: int) -> str:
    if run_count == 1:
        return f"round {step.number}"
    if step.run.trained == [step]:
        return step.run.name
    return f"{step.run.name}, round {step.number}"


def _once(rows: Sequence[Row], runs: Sequence[Run]) -> list[Row]:
    """Return the rows that have figures: one if all are equal, else each with its run's name."""
    judged = []
    named = []
    for row, run in zip(rows, runs, strict=True):
        if row.judged:
            judged.append(row)
            named.append(replace(row, label=f"{row.label}, {run.name}"))
    if not judged:  # without judges they have the scores of the rounds' reward, where it is one
        return list(rows[:1]) if one_reward(step_rows(runs)) else []
    if all(row.judged == judged[0].judged for row in judged):
        return judged[:1]
    return named


def one_reward(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the first round's separation figures if all rounds have one reward and one start.

    Else nothing is returned. Scores of different rewards have different scales, so only then can
    they stand in one column or on one axis.
    """
    separations: list[dict[str, Any]] = [row.separation for row in rows if row.separation]
    starts = set()
    for separation in separations:
        targets = mean(at(separation, "score_targets"))
        before = mean(at(separation, "score_before"))
        starts.add((targets, before))
    if len(starts) != 1:
        return {}
    return separations[0]
