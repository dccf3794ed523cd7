"""The whole program on a CPU: each job of ours beside another way to do it, as ratios from one run.

    python experiments/benchmarks/end_to_end.py --out runs/end_to_end

Every measurement is a process of its own with one thread; ours and the other take turns. Time is
the median over steps, then over rounds; memory is the highest resident size above what stood before
the job. Writes figures.csv, table.md, growth.csv and growth.png.

    python experiments/benchmarks/end_to_end.py --quick --compare

measures a few cases and prints how their ratios stand to the last ones in data/end_to_end.csv that
are of the same kind of device; its exit code is 1 if one fell by more than the spread.

    python experiments/benchmarks/end_to_end.py --compare --record

measures everything, and writes rows, growth and the table of docs/performance.md into the checkout.

    python experiments/benchmarks/end_to_end.py score --help
    python experiments/benchmarks/end_to_end.py serve --help
    python experiments/benchmarks/end_to_end.py budget --help

measure scoring texts of many lengths beside transformers' pipeline, a server beside scoring in
process, and batches of a token budget beside batches of a number of pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from end_to_end_cases import history
from end_to_end_cases.cases import CASES, ENVIRONMENTS, MOST_ROUNDS, QUICK
from end_to_end_cases.growth import write_growth
from end_to_end_cases.measuring import Figures
from end_to_end_cases.writing import HEADING, Row, insert_table, line, record, row, write

# benchmarks that are files of their own, each with main(argv)
OTHERS = {
    "score": "end_to_end_score",
    "serve": "end_to_end_serve",
    "budget": "end_to_end_budget",
}


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in OTHERS:
        import_module(OTHERS[sys.argv[1]]).main(sys.argv[2:])
        return
    options = _options()
    if options.one:
        _measure_here(*options.one)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    stamp = history.stamp()
    print(HEADING)
    rows: list[Row] = []
    for case in options.cases:
        rows += _case_rows(case, options.rounds)
        write(options.out, rows, stamp)
    records = [record(row, stamp) for row in rows]
    has_fallen = options.compare and _print_changes(records)
    if options.record:
        history.append(records)
    if options.record and set(options.cases) == set(CASES):
        insert_table(rows)
    if not options.no_growth:
        write_growth(options.out, options.record)
    sys.exit(int(has_fallen))


def _print_changes(records: list[history.Record]) -> bool:
    """Print how ratios stand to the last ones of the same device, and tell if one fell."""
    changes = history.changes(records, history.read())
    print(
        "\n| job | beside | of | ratio before | now | now over before | |\n|---|---|---|---|---|---|---|"
    )
    for change in changes:
        print(change)
    missing = len({row["case"] for row in records} - {change.case for change in changes})
    if missing:
        print(f"{missing} cases have no row of a {records[0]['device']} to compare with.")
    return any(change.has_fallen for change in changes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/end_to_end"))
    parser.add_argument("--rounds", type=int, help="measurements of each: 3, or 2 of --quick")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="a few cases that take seconds")
    parser.add_argument("--compare", action="store_true", help="with the last rows of the device")
    parser.add_argument("--record", action="store_true", help="rows and table into the checkout")
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "PROVIDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3)
    if options.quick:
        options.cases = list(QUICK)
        options.no_growth = True
    return options


def _measure_here(case: str, provider: str) -> None:
    """Measure one provider in this process and print its figures."""
    import torch

    torch.set_num_threads(1)
    figures = CASES[case][provider]()
    print(json.dumps(figures._asdict()))


def _case_rows(case: str, rounds: int) -> list[Row]:
    """Measure a case, its providers in turn, and print its lines."""
    figures: dict[str, list[Figures]] = {provider: [] for provider in CASES[case]}
    for _ in range(min(rounds, MOST_ROUNDS.get(case, rounds))):
        for provider, figures_of_provider in figures.items():
            figures_of_provider.append(_measure_in_process(case, provider))
    rows = [row(case, provider, figures) for provider in figures]
    for compared in rows[1:]:
        print(line(compared), flush=True)
    return rows


def _measure_in_process(case: str, provider: str) -> Figures:
    """Measure in a fresh process."""
    argv = [sys.executable, "-W", "ignore", __file__, "--one", case, provider]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **ENVIRONMENTS.get(case, {})}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{case}, {provider} failed:\n{done.stderr[-3000:]}")
    last_line = done.stdout.splitlines()[-1]
    return Figures(**json.loads(last_line))


if __name__ == "__main__":
    main()
