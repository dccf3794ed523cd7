"""Rows that are committed, by commit and device, and what fell since."""

from __future__ import annotations

import csv
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[3]
DATA = ROOT / "experiments" / "benchmarks" / "data"
HISTORY = DATA / "end_to_end.csv"
LEAST_SPREAD = 0.15  # a change that no comparison takes for one
LEAST_MIB = 16.0  # of ours, below which memory says little

Record = Mapping[str, Any]


class Change(NamedTuple):
    """How a figure's ratio to ours stands to that of the last row of the same kind of device.

    Attributes:
        case, provider: of the row.
        figure: "cpu", "seconds" or "mib".
        before: the ratio of the last row.
        now: the ratio now.
        commit: of the last row.
        spread: half of the width of the wider of the two ranges, over its ratio.
    """

    case: str
    provider: str
    figure: str
    before: float
    now: float
    commit: str
    spread: float

    @property
    def has_fallen(self) -> bool:
        """Tell whether ours lost more than the spread."""
        return self.now < self.before * (1 - self.spread)

    def __str__(self) -> str:
        mark = f"FELL by more than {self.spread:.0%}" if self.has_fallen else ""
        ratio = self.now / self.before
        cells = [self.case, self.provider, self.figure, f"{self.before:.2f} ({self.commit})"]
        return "| " + " | ".join([*cells, f"{self.now:.2f}", f"{ratio:.2f}", mark]) + " |"


def stamp() -> dict[str, str]:
    """Return what rows are found by: the day, the commit and the kind of device.

    A plus sign behind the commit says that files differ from it.
    """
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    if _git("status", "--porcelain", "--untracked-files=no"):
        commit += "+"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "device": f"{processor()}, 1 thread",
        "torch": version("torch").partition("+")[0],
    }


def _git(*arguments: str) -> str:
    """Return what git says, nothing where there is none."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def processor() -> str:
    """Return the processor's name."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def read(file: Path = HISTORY) -> list[dict[str, str]]:
    """Return the rows of a file, none where it is missing."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def append(records: Sequence[Record], file: Path = HISTORY) -> None:
    """Write rows behind those of a file."""
    write([*read(file), *records], file, list(records[0]))


def write(
    rows: Sequence[Mapping[str, Any]], file: Path, columns: Sequence[str] | None = None
) -> None:
    """Write rows as CSV, with the first row's columns or those named; the folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def changes(records: Sequence[Record], history: Sequence[Record]) -> list[Change]:
    """Return how the ratios stand to the last ones of the same kind of device.

    Ratios are of one run each; seconds are never compared. Processor seconds are taken where both
    rows have them, since a busy machine changes them least.
    """
    last = {(row["device"], row["case"], row["provider"]): row for row in history}
    found = []
    for record in records:
        before = last.get((record["device"], record["case"], record["provider"]))
        if before is None or record["provider"] == "ours":
            continue
        time = "cpu" if before.get("cpu_ratio") else "seconds"
        found.append(_change(time, before, record))
        if min(_mib_of_ours(before), _mib_of_ours(record)) >= LEAST_MIB:
            found.append(_change("mib", before, record))
    return found


def _mib_of_ours(record: Record) -> float:
    """Return the peak memory of ours beside a row, 0 where it is not known."""
    mib = float(record["mib"]) / float(record["mib_ratio"])
    return mib if math.isfinite(mib) else 0.0


def _change(figure: str, before: Record, record: Record) -> Change:
    spread = max(_half_width(figure, before), _half_width(figure, record), LEAST_SPREAD)
    return Change(
        case=record["case"],
        provider=record["provider"],
        figure=figure,
        before=float(before[f"{figure}_ratio"]),
        now=float(record[f"{figure}_ratio"]),
        commit=before["commit"],
        spread=spread,
    )


def _half_width(figure: str, record: Record) -> float:
    """Return half of the width of a ratio's range, over the ratio."""
    lowest = float(record[f"{figure}_lowest"])
    highest = float(record[f"{figure}_highest"])
    return (highest - lowest) / 2 / float(record[f"{figure}_ratio"])
