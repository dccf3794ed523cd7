"""The kernels on a GPU: times over those of the same-shape matrix product and of others, errors and
memory, from one run.

    PYTHONPATH=. python experiments/benchmarks/kernels.py --out runs/kernels

It needs torch, numpy and Triton. Others are measured if they can be imported (liger_kernel,
cut_cross_entropy, verl); one that cannot, or that fails, is a row that says so. In a case providers
take turns, on random data that no cache holds; times are medians, by CUDA events. Errors are
against float64 on the same bfloat16 operands. Writes figures.csv, and table.md for
docs/performance.md. `--device cpu --quick` tries the program out on tiny shapes; its figures are no
measurement.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kernel_cases.advantages import advantages
from kernel_cases.diffusion import diffusion
from kernel_cases.heads import backward, cross_entropy, forward, policy
from kernel_cases.images import pixels
from kernel_cases.measuring import Run, failure, swept
from kernel_cases.writing import SMOKE, row, write

Case = Callable[[Run, str, float], None]


def prefix(run: Run, *_: Any) -> None:
    """T12 is of a whole step, not of a kernel."""
    note = 'see experiments/benchmarks/end_to_end.py, the job "8 samples a prompt"'
    row(run, "T12", "prefix sharing, whole step", "ours", "target", math.nan, note=note)
    print(f"  T12 prefix sharing, whole step: {note}", flush=True)


CASES: list[tuple[str, Case, str, float]] = [  # in order of weight, with seconds of timing
    ("T1 T2 T5 T8 T9", forward, "S1", 30),
    ("T3 T4 T5 T8", policy, "S1", 60),
    ("T6", backward, "S1", 25),
    ("T7", cross_entropy, "S1", 25),
    ("T10", diffusion, "latents", 4),
    ("T10", diffusion, "video latents", 4),
    ("T11", advantages, "", 6),
    ("T12", prefix, "", 0),
    ("T13", pixels, "", 6),
    ("T3", policy, "S3", 20),
    ("T7", cross_entropy, "S3", 15),
    ("T1", forward, "S3", 12),
    ("T3", policy, "S2", 25),
    ("T1", forward, "S2", 15),
    ("T1", forward, "S4", 20),
]


def main() -> None:
    options = _options()
    torch.backends.cuda.matmul.allow_tf32 = False
    run = Run(torch.device(options.device), options.quick, options.seconds, options.without)
    options.out.mkdir(parents=True, exist_ok=True)
    if run.quick:
        print(SMOKE)
    for targets, case, shape, seconds in CASES:
        if not options.cases or set(options.cases) & set(targets.split()):
            _measured(run, targets, case, shape, seconds, options.out)
    write(run, options.out)
    print(
        f"Wrote {options.out}/figures.csv and table.md after {time.perf_counter() - run.started:.0f} s."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/kernels"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes, two calls each: to try the program out"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=510,
        help="of the whole run; cases that do not fit are left out",
    )
    parser.add_argument(
        "--cases", nargs="+", metavar="T", help="targets to measure, such as T1 T3; all by default"
    )
    parser.add_argument(
        "--without", nargs="+", metavar="NAME", default=[], help="providers to leave out"
    )
    options = parser.parse_args()
    if options.device == "cpu" and not options.quick:
        parser.error(
            "on a CPU there is nothing to measure here: add --quick to try the program out"
        )
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(
            "there is no CUDA device; --device cpu --quick tries the program out without one"
        )
    return options


def _measured(run: Run, targets: str, case: Case, shape: str, seconds: float, folder: Path) -> None:
    """Run a case, if there is time; what fails is a row."""

    def missed(note: str) -> None:
        row(
            run, targets.split()[0], case.__name__, "ours", "case", math.nan, shape=shape, note=note
        )

    if run.left() < seconds + 15:  # and the time it takes to start
        missed("left out: no time was left")
        print(f"-- {targets} {shape}: left out, no time was left", flush=True)
        return
    start = time.perf_counter()
    print(
        f"-- {targets} {shape}: {seconds} s of timing at most, {run.left():.0f} s left of {run.seconds:.0f}",
        flush=True,
    )
    try:
        case(run, shape, seconds)
    except Exception as error:
        note = f"the case failed: {failure(run, error)}"
        missed(note)
        print(f"  {note}", flush=True)
    finally:
        write(run, folder)
        swept(run)
    print(f"-- took {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
