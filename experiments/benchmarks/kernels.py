"""The kernels on a GPU: time, memory and errors of ours and of others, from one run.

Times are also given over that of the matrix product of the same shape.

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
from typing import Any, NamedTuple

import torch
from kernel_cases.advantages import advantages
from kernel_cases.diffusion import diffusion
from kernel_cases.forward import forward
from kernel_cases.gradients import backward, cross_entropy
from kernel_cases.images import pixels
from kernel_cases.measuring import Run, failure, swept
from kernel_cases.policy import policy
from kernel_cases.writing import SMOKE, row, write

STARTING = 15  # seconds that a case takes to start


class Measured(NamedTuple):
    """A case at a shape: the targets that it is about, and its seconds of timing."""

    targets: str
    case: Callable[[Run, str, float], None]
    shape: str
    seconds: float


def prefix(run: Run, *_: Any) -> None:
    """Write a row for T12, which is about a whole step, not about a kernel."""
    note = 'see experiments/benchmarks/end_to_end.py, the job "8 samples a prompt"'
    row(run, "T12", "prefix sharing, whole step", "ours", "target", math.nan, note=note)
    print(f"  T12 prefix sharing, whole step: {note}", flush=True)


CASES = [  # in order of weight
    Measured("T1 T2 T5 T8 T9", forward, "S1", 30),
    Measured("T3 T4 T5 T8", policy, "S1", 60),
    Measured("T6", backward, "S1", 25),
    Measured("T7", cross_entropy, "S1", 25),
    Measured("T10", diffusion, "latents", 4),
    Measured("T10", diffusion, "video latents", 4),
    Measured("T11", advantages, "", 6),
    Measured("T12", prefix, "", 0),
    Measured("T13", pixels, "", 6),
    Measured("T3", policy, "S3", 20),
    Measured("T7", cross_entropy, "S3", 15),
    Measured("T1", forward, "S3", 12),
    Measured("T3", policy, "S2", 25),
    Measured("T1", forward, "S2", 15),
    Measured("T1", forward, "S4", 20),
]


def main() -> None:
    options = _options()
    torch.backends.cuda.matmul.allow_tf32 = False
    run = Run(torch.device(options.device), options.quick, options.seconds, options.without)
    options.out.mkdir(parents=True, exist_ok=True)
    if run.quick:
        print(SMOKE)
    for measured in CASES:
        targets = measured.targets.split()
        if not options.cases or set(options.cases) & set(targets):
            _measure(run, measured, options.out)
    write(run, options.out)
    taken = time.perf_counter() - run.started
    print(f"Wrote {options.out}/figures.csv and table.md after {taken:.0f} s.")


def _options() -> argparse.Namespace:
    parser = _parser()
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


def _parser() -> argparse.ArgumentParser:
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
    return parser


def _measure(run: Run, measured: Measured, folder: Path) -> None:
    """Run a case, if there is time; what fails is a row."""
    label = f"{measured.targets} {measured.shape}"
    if run.left() < measured.seconds + STARTING:
        _add_missing(run, measured, "left out: no time was left")
        print(f"-- {label}: left out, no time was left", flush=True)
        return
    start = time.perf_counter()
    left = f"{run.left():.0f} s left of {run.seconds:.0f}"
    print(f"-- {label}: {measured.seconds} s of timing at most, {left}", flush=True)
    try:
        measured.case(run, measured.shape, measured.seconds)
    except Exception as error:
        note = f"the case failed: {failure(run, error)}"
        _add_missing(run, measured, note)
        print(f"  {note}", flush=True)
    finally:
        write(run, folder)
        swept(run)
    print(f"-- took {time.perf_counter() - start:.1f} s", flush=True)


def _add_missing(run: Run, measured: Measured, note: str) -> None:
    """Add a row that says why a case has no figures."""
    target = measured.targets.split()[0]
    name = measured.case.__name__
    row(run, target, name, "ours", "case", math.nan, shape=measured.shape, note=note)


if __name__ == "__main__":
    main()
