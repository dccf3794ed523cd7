"""What limits each row of the table of the whole program: its time by kind of operation.

    OMP_NUM_THREADS=1 python -W ignore experiments/benchmarks/limits.py
    OMP_NUM_THREADS=1 python -W ignore experiments/benchmarks/limits.py "DPO step" "RLOO step"

Each of our jobs is run once under torch's profiler, after a run that is not counted. The program
prints the shares of matrix products, attention, everything else inside torch's operations, and the
rest, which is Python, tokenizing, the loop, and what a job prepares before its first step.
"""

from __future__ import annotations

import argparse
import time

import torch
from end_to_end_cases.cases import CASES
from torch.profiler import ProfilerActivity, profile

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_", "aten::baddbmm")
PRODUCTS += ("aten::mkldnn_convolution", "aten::convolution_backward")
ATTENTION = "aten::_scaled_dot_product"
LEFT_OUT = ("import", "rewardlab --help", "DPO step, LoRA, 135M")  # processes; minutes


def shares(case: str) -> str:
    """Return the row of a case."""
    job = CASES[case]["ours"]
    job()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        job()
        seconds = time.perf_counter() - start
    products = 0.0
    attention = 0.0
    others = 0.0
    for event in profiler.key_averages():
        own = event.self_cpu_time_total / 1e6
        if event.key in PRODUCTS:
            products += own
        elif event.key.startswith(ATTENTION):
            attention += own
        elif event.key.startswith("aten::"):
            others += own
    rest = seconds - products - attention - others
    cells = [f"{part / seconds:.0%}" for part in (products, attention, others, rest)]
    return f"| {case} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measured = [case for case in CASES if case not in LEFT_OUT]
    parser.add_argument(
        "cases", nargs="*", default=measured, help="of the table; all of one process"
    )
    cases = parser.parse_args().cases
    torch.set_num_threads(1)
    print("| job | matrix products | attention | other operations | rest |\n|---|---|---|---|---|")
    for case in cases:
        print(shares(case), flush=True)


if __name__ == "__main__":
    main()
