"""Time, memory and launches of the providers of an operation, which take turns."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

# calls of a provider: at most, and at least where it is slow
REPEATS = 40
FEWEST = 3
MIB = 2**20

Call = Callable[
    [int], dict[str, Tensor]
]  # the number of the rotating operands to take -> what is compared, by name
Provider = Callable[[], Call]  # may raise: what cannot be had is a row
Errors = dict[str, dict[str, float]]  # provider -> metric -> value


@dataclass
class Run:
    """Settings, and the rows so far."""

    device: torch.device
    quick: bool
    seconds: float
    without: Sequence[str] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.started)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def copies(self, size: int) -> int:
        """How many operands of `size` bytes are at least three times the second-level cache."""
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size if self.cuda else 0
        return max(2 if self.quick else 1, math.ceil(3 * cache / size))


@dataclass
class Found:
    """What was seen of a provider: milliseconds of each call, MiB above operands and results, or
    why there is nothing.
    """

    call: Call | None = None
    result: dict[str, Tensor] = field(default_factory=dict)
    peak: float = math.nan
    times: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.times)) if self.times else math.nan


def measure(
    run: Run, providers: dict[str, Provider], seconds: float, queued: bool = False
) -> dict[str, Found]:
    """Make every provider, call each twice, then in turns until there are enough calls or no time
    is left.

    `queued` puts work before each call, so that the device's time is seen and not that of the
    launches.
    """
    found = {name: _made(run, make) for name, make in providers.items() if name not in run.without}
    calls = {name: each.call for name, each in found.items() if each.call is not None}
    share = min(seconds, max(run.left(), 1.0)) / max(1, len(calls)) * 1000
    for turn in range(2 if run.quick else REPEATS):
        for name, call in calls.items():
            each = found[name]
            if each.error or (turn >= FEWEST and sum(each.times) > share):
                continue
            try:
                each.times.append(_timed(run, call, turn, queued))
            except Exception as error:
                each.error = failure(run, error)
                each.times = []
    return found


def _made(run: Run, make: Provider) -> Found:
    """Make a provider, warm it up, and see how much memory a call takes."""
    try:
        call = make()
        for turn in range(2):  # compilers and caches allocate in the first ones
            call(turn)
        run.wait()
        if not run.cuda:
            return Found(call, call(0))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call(0)
        run.wait()
        kept = sum(tensor.nbytes for tensor in result.values())
        return Found(call, result, (torch.cuda.max_memory_allocated() - before - kept) / MIB)
    except Exception as error:
        return Found(error=failure(run, error))
    finally:
        swept(run)


def _timed(run: Run, call: Call, turn: int, queued: bool) -> float:
    if not run.cuda:
        start = time.perf_counter()
        call(turn)
        return 1000 * (time.perf_counter() - start)
    before = torch.cuda.Event(enable_timing=True)
    after = torch.cuda.Event(enable_timing=True)
    if queued:
        torch.cuda._sleep(4_000_000)  # about 2 ms
    before.record()
    call(turn)
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def swept(run: Run) -> None:
    """Give memory back, so that the next is not measured with it; a lost device has none to give,
    and says so elsewhere.
    """
    if run.cuda:
        gc.collect()
        with suppress(Exception):
            torch.cuda.empty_cache()


def failure(run: Run, error: Exception) -> str:
    """An error in a line. One that the device does not survive ends the run, after its rows are
    written.
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    if isinstance(error, ModuleNotFoundError):
        text = f"not installed: {error.name}"
    try:
        run.wait()
    except Exception as lost:
        raise SystemExit(
            f"The device was lost ({text}). Leave that provider out: --without NAME."
        ) from lost
    return text


def launches(run: Run, call: Call | None) -> float:
    """How many kernels, copies and fills a call runs on the device, by the profiler."""
    if call is None or not run.cuda:
        return math.nan
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            call(0)
            run.wait()
        return float(
            sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events())
        )
    except Exception:
        return math.nan


def over(found: dict[str, Found], name: str, base: str = "ours", what: str = "median") -> float:
    """A provider's figure over another's; NaN if either has none."""
    if name not in found or base not in found:
        return math.nan
    upper = getattr(found[name], what)
    lower = getattr(found[base], what)
    return upper / lower if lower > 0 else math.nan


def repeats(found: Found, result: str, calls: int) -> float:
    """1 if that many calls more give the same result to the bit, 0 if one does not, NaN if there is
    nothing to call.
    """
    if found.call is None:
        return math.nan
    return float(
        all(torch.equal(found.call(0)[result], found.result[result]) for _ in range(calls))
    )


def errors_of(
    found: dict[str, Found], compare: Callable[[dict[str, Tensor]], dict[str, float]]
) -> Errors:
    """What a comparison says of each provider's results, where it has any."""
    return {name: compare(each.result) for name, each in found.items() if each.result}


def error_of(errors: Errors, name: str, metric: str) -> float:
    return errors.get(name, {}).get(metric, math.nan)
