"""The rows that tables and plots share: the real targets, the base, and each round of each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Return the targets, the bases and the rounds, in this order; what several runs share comes
    once.
    """
    return [
        *_once(runs, "targets (real)", TARGETS, "targets", lambda run: run.targets),
        *_once(runs, "base", BASE, "base", lambda run: run.base),
        *step_rows(runs),
    ]


def step_rows(runs: Sequence[Run]) -> list[Row]:
    """Return the rounds of each run, a run's rounds in one colour."""
    colours = {run.name: RUNS[i % len(RUNS)] for i, run in enumerate(runs)}
    steps = [step for run in runs for step in run.steps]
    return [
        Row(_label(step, len(runs)), colours[step.run.name], step.judged, "step", step)
        for step in steps
    ]


def _label(step: Step, runs: int) -> str:
    if runs == 1:
        return f"round {step.number}"
    return step.run.name if step.run.trained == [step] else f"{step.run.name}, round {step.number}"


def _once(
    runs: Sequence[Run], label: str, colour: str, kind: str, read: Callable[[Run], dict[str, Any]]
) -> list[Row]:
    found = [(run, read(run)) for run in runs if read(run)]
    if all(judged == found[0][1] for _, judged in found):
        return [Row(label, colour, judged, kind) for _, judged in found[:1]]
    return [Row(f"{label}, {run.name}", colour, judged, kind) for run, judged in found]


def one_reward(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the separation figures of the first round if all rounds have one reward and one start,
    else nothing.

    Scores of different rewards have different scales; only then can they stand in one column or on
    one axis.
    """
    all_figures = [row.step.separation for row in rows if row.step and row.step.separation]
    marks = {
        tuple(mean(at(figures, f"score_{side}")) for side in ("targets", "before"))
        for figures in all_figures
    }
    return all_figures[0] if len(marks) == 1 else {}
