"""Rows of what was measured, as CSV and as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from end_to_end_cases import history
from end_to_end_cases.cases import AIMED_AT, AIMS, Aim
from end_to_end_cases.measuring import Figures

HEADING = (
    "| job | beside | its seconds over ours | its processor seconds over ours "
    "| its peak memory over ours |\n|---|---|---|---|---|"
)

PAGE = history.ROOT / "docs" / "performance.md"
MARKS = ("<!-- end_to_end: begin -->", "<!-- end_to_end: end -->")


class Comparison(NamedTuple):
    """A provider's median figure, and its ratio to ours: the rounds' median, lowest and highest."""

    median: float
    ratio: float
    lowest: float
    highest: float


class Row(NamedTuple):
    """What was measured of a provider of a case, in so many rounds."""

    case: str
    provider: str
    rounds: int
    seconds: Comparison
    cpu: Comparison
    mib: Comparison


def row(case: str, provider: str, figures: dict[str, list[Figures]]) -> Row:
    """Return a provider's figures beside ours, of all rounds."""
    ours = figures["ours"]
    other = figures[provider]
    return Row(
        case,
        provider,
        len(ours),
        seconds=_compared([one.seconds for one in ours], [one.seconds for one in other]),
        cpu=_compared([one.cpu for one in ours], [one.cpu for one in other]),
        mib=_compared([one.mib for one in ours], [one.mib for one in other]),
    )


def _compared(ours: list[float], other: list[float]) -> Comparison:
    rounds = zip(ours, other, strict=True)
    ratios = [theirs / mine for mine, theirs in rounds if mine > 0]
    if not ratios:
        ratios = [math.nan]
    return Comparison(
        median=statistics.median(other),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )


def line(row: Row) -> str:
    """Return a row of the table, with what was aimed at."""
    aim = Aim()
    if row.provider in AIMED_AT:
        aim = AIMS.get(row.case, aim)
    seconds = _ratio_cell(row.seconds, aim.seconds)
    cpu = _ratio_cell(row.cpu, None)
    memory = _ratio_cell(row.mib, aim.mib)
    return f"| {row.case} | {row.provider} | {seconds} | {cpu} | {memory} |"


def _ratio_cell(comparison: Comparison, aim: float | None) -> str:
    if math.isnan(comparison.ratio):
        return "–"
    notes = []
    if comparison.lowest != comparison.highest:
        notes.append(f"{comparison.lowest:.2f} to {comparison.highest:.2f}")
    if aim is not None:
        notes.append(f"aim {aim:.2g}")
    cell = f"{comparison.ratio:.2f}"
    if not notes:
        return cell
    return f"{cell} ({', '.join(notes)})"


def table(rows: Sequence[Row]) -> str:
    """Return the table of what is compared with ours."""
    lines = [HEADING]
    for row in rows:
        if row.provider != "ours":
            lines.append(line(row))
    return "\n".join(lines)


def insert_table(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Put the table in the place of the one that stands between two marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise SystemExit(f"{page} has no place for the table between {' and '.join(MARKS)}.")
    page.write_text(f"{before}{begin}\n{table(rows)}\n{end}{after}", encoding="utf-8")


def write(out: Path, rows: Sequence[Row], stamp: Mapping[str, str]) -> None:
    """Write what was measured so far: figures.csv and table.md."""
    records = [record(row, stamp) for row in rows]
    history.write(records, out / "figures.csv")
    (out / "table.md").write_text(f"{table(rows)}\n", encoding="utf-8")


def record(row: Row, stamp: Mapping[str, str]) -> dict[str, Any]:
    """Return a row's columns, behind those of the stamp."""
    columns: dict[str, Any] = {
        **stamp,
        "rounds": row.rounds,
        "case": row.case,
        "provider": row.provider,
    }
    for name in ("seconds", "cpu", "mib"):
        comparison: Comparison = getattr(row, name)
        for part, value in comparison._asdict().items():
            column = name if part == "median" else f"{name}_{part}"
            columns[column] = f"{value:.5g}"
    return columns
