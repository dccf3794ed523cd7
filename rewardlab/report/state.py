"""Say at the top of a page what a reader must know first: how a run ended, and what it warned of.

The first is in run.json, the second in diagnostics.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.report.figures import sig
from rewardlab.report.markup import box, details, tag
from rewardlab.report.run_tables import fact_rows
from rewardlab.runs import layout
from rewardlab.runs.attempts import FAILED, FINISHED, INTERRUPTED, RUNNING
from rewardlab.runs.read import Run
from rewardlab.storage.metadata import read_text

GRAVE = ("warning", "error", "critical")
ENDINGS = {
    RUNNING: "still runs, or was killed",
    INTERRUPTED: "was interrupted",
    FAILED: "failed",
}


class Diagnostic(NamedTuple):
    """What a run said of its data or of its training while it ran.

    Attributes:
        stage: the stage that said it; "" if it belongs to none.
        level: "info", "warning" or "error".
        sentence: what it said; several lines are a heading and its items.
        figures: the numbers behind it.
    """

    stage: str
    level: str
    sentence: str
    figures: Mapping[str, Any]


def read_diagnostics(run: Run) -> list[Diagnostic]:
    """Return what a run warned of, the gravest first; nothing where it kept no diagnostics.json.

    Raises:
        InputError: if the file is not a list of objects.
    """
    path = run.path / layout.DIAGNOSTICS_FILE
    if not path.is_file():
        return []
    try:
        entries = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno} is not JSON ({error.msg}). Restore it, or remove it."
        ) from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f"{path} should hold a list of objects; got {str(entries)[:60]}. Restore it, or "
            "remove it."
        )
    diagnostics = [
        _diagnostic(entry) for entry in entries if str(entry.get("sentence", "")).strip()
    ]
    return sorted(diagnostics, key=lambda diagnostic: diagnostic.level not in GRAVE)


def _diagnostic(entry: Mapping[str, Any]) -> Diagnostic:
    figures = entry.get("figures")
    return Diagnostic(
        stage=str(entry.get("stage") or ""),
        level=str(entry.get("level") or "info").lower(),
        sentence=str(entry.get("sentence") or ""),
        figures=figures if isinstance(figures, Mapping) else {},
    )


def state_boxes(runs: Sequence[Run]) -> list[str]:
    """Return a box for each run that has not finished, and what runs said: warnings first.

    What several runs said alike is there once. What is no warning is folded.
    """
    boxes = []
    for run in runs:
        sentence = unfinished(run)
        if sentence:
            boxes.append(box("bad", tag("p", f"{run.name}: {sentence}", "verdict")))
    for speaker, lines in _said(runs, are_grave=True).items():
        heading = tag("p", f"What {speaker} said while it ran", "verdict")
        boxes.append(box("warned", heading, *lines))
    for speaker, lines in _said(runs, are_grave=False).items():
        boxes.append(details(f"What {speaker} said while it ran", *lines))
    return boxes


def _said(runs: Sequence[Run], *, are_grave: bool) -> dict[str, list[str]]:
    """Return what runs said, warnings or else, by the names of all who said it."""
    speakers: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        for diagnostic in read_diagnostics(run):
            if (diagnostic.level in GRAVE) == are_grave:
                speakers.setdefault(tuple(_lines(diagnostic)), []).append(run.name)
    said: dict[str, list[str]] = {}
    for sentences, names in speakers.items():
        said.setdefault(", ".join(dict.fromkeys(names)), []).extend(sentences)
    return said


def _lines(diagnostic: Diagnostic) -> list[str]:
    """Return a diagnostic as elements: its first line, indented lines as items, and the rest."""
    first, *others = [line for line in diagnostic.sentence.splitlines() if line.strip()]
    items = [line.strip() for line in others if line.startswith(" ")]
    closing = [line for line in others if not line.startswith(" ")]
    stage = f"{diagnostic.stage}: " if diagnostic.stage else ""
    mark = "Warning. " if diagnostic.level in GRAVE else ""
    lines = [tag("p", f"{mark}{stage}{first.strip()}")]
    if items:
        lines.append("<ul>" + "".join(tag("li", line) for line in items) + "</ul>")
    lines += [tag("p", line) for line in closing]
    facts = []
    for name, value in fact_rows(diagnostic.figures):
        number = sig(float(value)) if _is_decimal(value) else value
        facts.append(f"{name} {number}")
    if facts and not others:
        lines.append(tag("p", "; ".join(facts), "soft"))
    return lines


def _is_decimal(text: str) -> bool:
    """Tell whether a text is a number with a fraction, which may have many digits."""
    try:
        float(text)
    except ValueError:
        return False
    return "." in text or "e" in text


def unfinished(run: Run) -> str:
    """Say that a run has not finished, when it stopped and after which stage; "" if it has.

    Runs of earlier versions say nothing of it.
    """
    status = str(run.facts.get("status", FINISHED))
    if status not in ENDINGS:
        return ""
    end = _date(run.facts.get("end"))
    when = f" on {end}" if end else ""
    sentence = f"This run {ENDINGS[status]}{when}, so what follows is not all of it."
    stages = [layout.name_of_title(title) for title in run.timing]
    stages = [stage for stage in stages if stage and run.stage(stage)]
    if stages:
        sentence += f" Its finished stages: {', '.join(sorted(stages))}."
    return f"{sentence} The same command with `--resume` goes on."


def _date(value: Any) -> str:
    """Return a time of run.json as people read it, "" where it is none.

    Example:
        >>> _date("2026-11-29T10:17:04+00:00"), _date(None)
        ('2026-11-29 10:17 UTC', '')
    """
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return ""
    return time.strftime("%Y-%m-%d %H:%M ") + (time.tzname() or "")


def config_names(run: Run) -> str:
    """Return the names of the config files that a run's command gave; "" where it gave none.

    Example:
        >>> from pathlib import Path
        >>> facts = {"command": ["rewardlab", "fit", "--config", "configs/gan_rm/fit.yaml"]}
        >>> config_names(Run(Path("a"), "a", {}, facts, {}, {}))
        'fit.yaml'
    """
    command = run.facts.get("command")
    if not isinstance(command, list):
        return ""
    names = []
    for before, word in pairwise(["", *map(str, command)]):
        flag, _, value = word.partition("=")
        if before == "--config":
            names.append(Path(word).name)
        elif flag == "--config" and value:
            names.append(Path(value).name)
    return ", ".join(names)


def about_run(run: Run) -> str:
    """Say by which command a run was first made and when; "" where run.json does not tell."""
    earlier = run.facts.get("earlier")
    facts = earlier[0] if isinstance(earlier, list) and earlier else run.facts
    command = facts.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else ""
    start = _date(facts.get("start"))
    said = f"`{words}`" if words else ""
    if start:
        said += f"{', ' if said else ''}begun {start}"
    return f"Made by {said}." if said else ""
