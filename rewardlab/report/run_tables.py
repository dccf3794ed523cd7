"""Make the tables of a run's settings, times and origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.report.figures import MISSING, mean, sig
from rewardlab.report.markup import table
from rewardlab.runs.read import Run, at


def differences_table(runs: Sequence[Run], settings: Mapping[str, Sequence[Any]]) -> str:
    """Return settings in which runs differ, each with one value a run."""
    rows = []
    for key, values in settings.items():
        row = [key.removeprefix("rounds.init_args.")]
        for value in values:
            row.append(MISSING if value is None else str(value))
        rows.append(row)
    return table(["setting", *(run.name for run in runs)], rows)


def time_table(run: Run) -> str:
    """Return each stage's seconds, and the largest memory of the process by then."""
    seconds: dict[str, float] = {}
    for title, entry in run.timing.items():
        if isinstance(entry, Mapping) and title != "cost":
            seconds[title] = mean(entry.get("seconds")) or 0
    total = sum(seconds.values())
    rows = []
    for title in sorted(seconds, key=lambda title: -seconds[title]):
        cells = _time_cells(run.timing[title], total)
        rows.append([title, *cells])
    if rows:
        rows.append(["all stages", sig(total), "", "", ""])
    head = ["stage", "seconds", "share", "peak memory, MiB", "peak GPU memory, MiB"]
    caption = "Longest first. The memory is the process's peak up to the stage's end."
    cost = at(run.timing, "cost")
    return table(head, rows, caption + _cost_sentence(cost))


def _cost_sentence(cost: Any) -> str:
    seconds = mean(at(cost, "seconds", "ratio"))
    generations = mean(at(cost, "generations", "ratio"))
    if seconds is None or generations is None:
        return ""
    return (
        " All fits, attacks, mining and post-training took "
        f"{sig(seconds)} times the seconds, and "
        f"{sig(generations)} times the generations, of one fit and the same "
        f"{cost['steps']} steps of post-training."
    )


def _time_cells(entry: Mapping[str, Any], total: float) -> list[str]:
    """Return the cells of a stage, whose share is of `total` seconds."""
    seconds = mean(entry.get("seconds"))
    if seconds is None:
        state = "reused" if entry.get("reused") else MISSING
        return [state, MISSING, MISSING, MISSING]
    share = MISSING
    if total:
        share = f"{100 * seconds / total:.0f} %"
    return [
        sig(seconds),
        share,
        sig(entry.get("peak_memory_mib")),
        sig(entry.get("peak_gpu_mib")),
    ]


def provenance_table(run: Run) -> str:
    """Return versions, device, seeds and fingerprints as a flat table."""
    return table(["fact", "value"], fact_rows(run.facts), kind="facts")


def fact_rows(tree: Any, prefix: str = "") -> list[list[str]]:
    """Return the leaves of nested facts, each after its keys, which are joined with spaces.

    Example:
        >>> fact_rows({"versions": {"torch": "2.15"}, "device": "cpu"})
        [['versions torch', '2.15'], ['device', 'cpu']]
    """
    if not isinstance(tree, Mapping):
        return [[prefix, str(tree)]]
    rows = []
    for key, value in tree.items():
        rows += fact_rows(value, f"{prefix} {key}".strip())
    return rows
