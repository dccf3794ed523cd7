"""Rows of what was measured, as CSV and as a table."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from end_to_end_cases.cases import AIMED_AT, AIMS, Aim
from end_to_end_cases.measuring import Figures

HEADING = "| job | beside | its seconds over ours | its peak memory over ours |"


class Comparison(NamedTuple):
    """A provider's median figure, and its ratio to ours: the rounds' median, lowest and highest."""

    median: float
    ratio: float
    lowest: float
    highest: float


class Row(NamedTuple):
    """What was measured of a provider of a case."""

    case: str
    provider: str
    seconds: Comparison
    mib: Comparison


def row(case: str, provider: str, figures: dict[str, list[Figures]]) -> Row:
    """Return a provider's figures beside ours, of all rounds."""
    ours = figures["ours"]
    other = figures[provider]
    return Row(
        case,
        provider,
        seconds=_compared([one.seconds for one in ours], [one.seconds for one in other]),
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
    memory = _ratio_cell(row.mib, aim.mib)
    return f"| {row.case} | {row.provider} | {seconds} | {memory} |"


def _ratio_cell(comparison: Comparison, aim: float | None) -> str:
    ends = f"{comparison.lowest:.2f} to {comparison.highest:.2f}"
    if aim is not None:
        ends += f", aim {aim:.2g}"
    return f"{comparison.ratio:.2f} ({ends})"


def write(out: Path, rows: Sequence[Row]) -> None:
    """Write what was measured so far."""
    table = [_columns(row) for row in rows]
    with (out / "figures.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    lines = [HEADING, "|---|---|---|---|"]
    for row in rows:
        if row.provider != "ours":
            lines.append(line(row))
    text = "\n".join(lines)
    (out / "table.md").write_text(f"{text}\n", encoding="utf-8")


def _columns(row: Row) -> dict[str, Any]:
    return {
        "case": row.case,
        "provider": row.provider,
        "seconds": row.seconds.median,
        "seconds_ratio": row.seconds.ratio,
        "seconds_lowest": row.seconds.lowest,
        "seconds_highest": row.seconds.highest,
        "mib": row.mib.median,
        "mib_ratio": row.mib.ratio,
        "mib_lowest": row.mib.lowest,
        "mib_highest": row.mib.highest,
    }
