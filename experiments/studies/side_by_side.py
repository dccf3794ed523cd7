"""What studies of several arms and seeds share: the runs, and files of what was measured."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.cli import main as rewardlab


class Made(NamedTuple):
    """A run that stands."""

    arm: str
    seed: int
    folder: Path


def made(
    arms: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    command: Callable[[str, int], list[str]],
    hours: float = float("inf"),
    done: Collection[tuple[str, int]] = (),
) -> Iterator[Made]:
    """Make each run that does not stand, and yield it.

    Args:
        arms: names of the arms.
        seeds: each has all arms.
        out: folder of the run folders.
        command: returns the arguments of `rewardlab` for an arm and a seed.
        hours: after which no run begins.
        done: arms and seeds that were measured before, and are left out.

    Raises:
        SystemExit: with the code of a run that failed; it has said why.
    """
    end = time.monotonic() + 3600 * hours
    for seed in seeds:
        for arm in arms:
            if (arm, seed) in done:
                continue
            if time.monotonic() > end:
                print("The hours are over; the same command goes on.")
                return
            code = rewardlab(command(arm, seed))
            if code:
                raise SystemExit(code)
            yield Made(arm, seed, out / f"{arm}-{seed}")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with a line's end behind each of its lines."""
    lines = [heads, *rows]
    texts = ["| " + " | ".join(cells) + " |" for cells in lines]
    texts.insert(1, "|---" * len(heads) + "|")
    return "\n".join(texts) + "\n"


def read_csv(file: Path) -> list[dict[str, str]]:
    """Return the rows of a file, as texts."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the names that any of them has, in the order in which they came."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
