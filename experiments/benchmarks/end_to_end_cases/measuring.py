"""Time and peak memory of a job, in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Figures(NamedTuple):
    """The median seconds of a job or a step, and its peak memory in MiB."""

    seconds: float
    mib: float


def reset() -> float:
    """Forget the highest resident size so far and return the present one, in MiB.

    What torch imports late is imported before.
    """
    import torch._dynamo  # noqa: F401  (the first optimiser step imports it, 150 MiB)

    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> float:
    """Return VmRSS or VmHWM of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def measured(job: Callable[[], object], repeats: int = 7) -> Figures:
    """Return the figures of a job.

    Peak memory is that of its first run above what stood before it; seconds are the median of the
    runs after.
    """
    before = reset()
    job()
    peak = resident("VmHWM") - before
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return Figures(statistics.median(times), peak)


class Steps:
    """Seconds between the ends of optimiser steps, and peak memory of the training.

    The first few steps are left out.
    """

    def __init__(self, warmup: int = 3) -> None:
        self.times: list[float] = []
        self.warmup = warmup
        self.before = reset()

    def tick(self) -> None:
        """Note the end of a step."""
        self.times.append(time.perf_counter())

    def figures(self) -> Figures:
        """Return the median seconds of a step, and the peak memory."""
        gaps = [after - before for before, after in pairwise(self.times)]
        seconds = statistics.median(gaps[self.warmup :])
        return Figures(seconds, resident("VmHWM") - self.before)
