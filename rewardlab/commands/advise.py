"""`rewardlab advise`: what of the menu to try first, from a user's own short runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.report.advice import NOTHING, Advice, Counsel, advise
from rewardlab.report.run_figures import OwnFigures, own_figures
from rewardlab.runs import layout
from rewardlab.runs.read import Run, read_runs
from rewardlab.storage.loading import loading
from rewardlab.storage.metadata import read_text


def run(command: str, argv: Sequence[str]) -> int:
    """Read the run folders, and print what to try first."""
    parser = argparse.ArgumentParser(prog="rewardlab advise")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    flags = parser.parse_args(argv)
    figures = [figures_of(run) for run in read_runs(flags.runs)]
    print("\n".join(lines(figures, advise(figures))))
    return 0


def figures_of(run: Run) -> OwnFigures:
    """Return what a run says of its own training.

    Raises:
        InputError: if the folder is of another command, or has no steps.
    """
    if run.kind not in ("rounds", "fit"):
        raise InputError(
            f"{run.path} is a folder of `rewardlab {run.kind}`, which trains no policy. Give one "
            "that `rewardlab rounds` or `fit` wrote."
        )
    return own_figures(run, _diagnostics(run.path / layout.DIAGNOSTICS_FILE))


def _diagnostics(file: Path) -> list[Any]:
    """Return what is in diagnostics.json; nothing if there is none."""
    if not file.is_file():
        return []
    with loading(file):
        content = json.loads(read_text(file))
        return content if isinstance(content, list) else []


def lines(runs: Sequence[OwnFigures], counsel: Counsel) -> Iterator[str]:
    """Yield what is printed."""
    for run in runs:
        count = max(change.readings for change in run.changes.values())
        step = max(change.step for change in run.changes.values())
        loop = run.setting.loop or "a loop of unknown class"
        yield f"{run.name}: {loop}, up to {count} readings, {step:.0f} steps. No judge was read."
    yield ""
    if not counsel.advices:
        yield NOTHING
    for number, advice in enumerate(counsel.advices, 1):
        yield from _advice_lines(number, advice)
    if counsel.unread:
        yield "Not read, for want of a monitor:"
        yield from (f"  {entry}" for entry in counsel.unread)


def _advice_lines(number: int, advice: Advice) -> Iterator[str]:
    yield f"{number}. {advice.advice} ({advice.strength:.1f} times its threshold)"
    yield from (f"   {sentence}" for sentence in advice.evidence)
    yield f"   {advice.meaning}"
    if advice.lay_over:
        yield f"   Lay over the same command:  {' '.join(advice.lay_over)}"
    yield f"   Threshold: {advice.basis}."
    if advice.measured is not None:
        yield f"   Measured: {advice.measured.sentence()}."
    yield ""
