"""Time and peak memory of a job, in a process of its own."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Figures(NamedTuple):
    """Medians of a job or a step: seconds, processor seconds; and its peak memory in MiB."""

    seconds: float
    cpu: float
    mib: float


class Moment(NamedTuple):
    """A reading of the clock, and of the processor's, with that of processes that ended."""

    seconds: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        """Read both clocks."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = time.process_time() + children.ru_utime + children.ru_stime
        return cls(time.perf_counter(), spent)


def figures_between(moments: Sequence[tuple[Moment, Moment]], mib: float) -> Figures:
    """Return the medians of what passed between pairs of moments."""
    seconds = statistics.median(after.seconds - before.seconds for before, after in moments)
    cpu = statistics.median(after.cpu - before.cpu for before, after in moments)
    return Figures(seconds, cpu, mib)


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
    runs after, and so are processor seconds.
    """
    before = reset()
    job()
    peak = resident("VmHWM") - before
    moments = []
    for _ in range(repeats):
        start = Moment.now()
        job()
        moments.append((start, Moment.now()))
    return figures_between(moments, peak)


class Steps:
    """Seconds between the ends of optimiser steps, and peak memory of the training.

    The first few steps are left out.
    """

    def __init__(self, warmup: int = 3) -> None:
        self.ends: list[Moment] = []
        self.warmup = warmup
        self.before = reset()

    def tick(self) -> None:
        """Note the end of a step."""
        self.ends.append(Moment.now())

    def figures(self) -> Figures:
        """Return the medians of a step, and the peak memory."""
        moments = list(pairwise(self.ends))[self.warmup :]
        return figures_between(moments, resident("VmHWM") - self.before)
