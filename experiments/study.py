"""The papers' claims, measured on small worlds: rows, a picture and a verdict each.

    python experiments/study.py G6            # one claim; without a name, all
    python experiments/study.py --list

Writes NAME.csv (a row a setting and seed), NAME.png, NAME.md and index.md into docs/results. Rows
that stand are not measured again, so a killed study goes on; `--pages` writes pages from them.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import claims
from claims.claim import Claim, Work
from claims.files import is_whole, read_rows, summary, write_index, write_page, write_rows

RESULTS = Path(__file__).parents[1] / "docs" / "results"
WORK = Path("runs") / "claims"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("names", nargs="*", metavar="NAME", help="such as G6; all by default")
    options.add_argument("--out", type=Path, default=RESULTS, help="of rows and pages")
    options.add_argument("--work", type=Path, default=WORK, help="of pools and runs, kept")
    options.add_argument("--seeds", type=int, help="how many; by default those of each claim")
    options.add_argument("--hours", type=float, default=float("inf"), help="begin no point after")
    options.add_argument("--small", action="store_true", help="the size of make test")
    options.add_argument("--pages", action="store_true", help="measure nothing, write the pages")
    options.add_argument("--list", action="store_true", help="name the claims, and end")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for, and write the pages."""
    options = parser().parse_args(arguments)
    chosen = [claims.claim_of(name) for name in options.names or claims.names()]
    if options.list:
        for claim in chosen:
            print(f"{claim.name:4} {claim.title}")
        return 0
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("rewardlab").setLevel(logging.ERROR)  # what a fit would tell its user
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 3600 * options.hours
    for claim in chosen:
        if not options.pages:
            measure(claim, options, end)
        rows = read_rows(_file(claim, options.out))
        if is_whole(claim, rows):
            verdict = write_page(options.out, claim, rows)
            print(f"{claim.name} {verdict.word}: {verdict.figure}", flush=True)
    everything = [claims.claim_of(name) for name in claims.names()]
    write_index(options.out, everything, options.out)
    if options.pages:
        print("\n".join(["README's table:", *summary(options.out, everything)]))
    return 0


def measure(claim: Claim, options: argparse.Namespace, end: float) -> None:
    """Measure the points of a claim that have no row yet, and write a row after each.

    Raises:
        SystemExit: if the file holds rows of the other size.
    """
    file = _file(claim, options.out)
    rows = read_rows(file)
    size = "small" if options.small else "full"
    if any(row["size"] != size for row in rows):
        raise SystemExit(f"{file} holds rows of another size; give --out another folder.")
    work = Work(options.work / size, options.small)
    done = {(row["setting"], row["seed"]) for row in rows}
    points = claim.points(options.small, options.seeds)
    left = [point for point in points if point not in done]
    start = time.monotonic()
    for number, point in enumerate(left):
        if time.monotonic() > end:
            print("The hours are over; the same command goes on.")
            return
        rows.append(row_of(claim, point, size, work))
        write_rows(file, sorted(rows, key=lambda row: points_order(claim, row)))
        mean = (time.monotonic() - start) / (number + 1)
        minutes = mean * (len(left) - number - 1) / 60
        print(f"{claim.name} {point[0]}, seed {point[1]}; about {minutes:.0f} min left", flush=True)


def row_of(claim: Claim, point: tuple[str, int], size: str, work: Work) -> dict[str, Any]:
    """Measure one setting and seed."""
    begun = time.monotonic()
    setting, seed = point
    row: dict[str, Any] = {"size": size, "setting": setting, "seed": seed}
    row |= claim.measure(setting, seed, work)
    row.setdefault("seconds", round(time.monotonic() - begun, 1))  # a run knows its own
    row["command"] = f"make study NAME={claim.name}"
    return row


def points_order(claim: Claim, row: dict[str, Any]) -> tuple[int, int]:
    """Return the place of a row: by setting as the claim lists them, then by seed."""
    return claim.settings.index(row["setting"]), row["seed"]


def _file(claim: Claim, folder: Path) -> Path:
    return folder / f"{claim.name}.csv"


if __name__ == "__main__":
    raise SystemExit(main())
