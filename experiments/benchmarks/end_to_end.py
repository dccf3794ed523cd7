"""The whole program on a CPU: each job of ours beside another way to do it, as ratios from one run.

    python experiments/benchmarks/end_to_end.py --out runs/end_to_end

Every measurement is a process of its own with one thread; ours and the other take turns. Time is
the median over steps, then over rounds; memory is the highest resident size above what stood before
the job. Writes figures.csv, table.md and growth.png.

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

from end_to_end_cases.cases import CASES
from end_to_end_cases.growth import growth, picture, slopes
from end_to_end_cases.measuring import Figures
from end_to_end_cases.writing import Row, line, row, write

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
    rows: list[Row] = []
    for case in options.cases:
        rows += _case_rows(case, options.rounds)
        write(options.out, rows)
    if not options.no_growth:
        _write_growth(options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/end_to_end"))
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "PROVIDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure_here(case: str, provider: str) -> None:
    """Measure one provider in this process and print its figures."""
    import torch

    torch.set_num_threads(1)
    figures = CASES[case][provider]()
    print(json.dumps(figures._asdict()))


def _case_rows(case: str, rounds: int) -> list[Row]:
    """Measure a case, its providers in turn, and print its lines."""
    figures: dict[str, list[Figures]] = {provider: [] for provider in CASES[case]}
    for _ in range(rounds):
        for provider, figures_of_provider in figures.items():
            figures_of_provider.append(_measure_in_process(case, provider))
    rows = [row(case, provider, figures) for provider in figures]
    for compared in rows[1:]:
        print(line(compared), flush=True)
    return rows


def _measure_in_process(case: str, provider: str) -> Figures:
    """Measure in a fresh process."""
    argv = [sys.executable, "-W", "ignore", __file__, "--one", case, provider]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{case}, {provider} failed:\n{done.stderr[-3000:]}")
    last_line = done.stdout.splitlines()[-1]
    return Figures(**json.loads(last_line))


def _write_growth(out: Path) -> None:
    growths = growth()
    picture(growths, out / "growth.png")
    exponents = [f"{name} {exponent:.2f}" for name, exponent in slopes(growths).items()]
    summary = ", ".join(exponents)
    (out / "growth.md").write_text(
        f"Exponent of seconds in the size (1 is linear): {summary}.\n", encoding="utf-8"
    )
    print(summary)


if __name__ == "__main__":
    main()
