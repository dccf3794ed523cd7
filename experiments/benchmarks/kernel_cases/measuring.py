"""Time, memory and launches of the providers of an operation, which take turns."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

# calls of a provider: at most, and at least where it is slow
REPEATS = 40
FEWEST = 3
MIB = 2**20

Result = dict[str, Tensor]  # what is compared, by name
Call = Callable[[int], Result]  # takes the number of the rotating operands
Provider = Callable[[], Call]  # may raise: what cannot be had is a row
Providers = dict[str, Provider]  # by name
Metrics = dict[str, float]  # by name
Errors = dict[str, Metrics]  # by provider
Operands = TypeVar("Operands")


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
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.perf_counter() - self.started)

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.cuda:
            torch.cuda.synchronize()

    def copies(self, size: int) -> int:
        """Return how many operands of `size` bytes are three times the second-level cache."""
        cache = 0
        if self.cuda:
            cache = torch.cuda.get_device_properties(self.device).L2_cache_size
        fewest = 2 if self.quick else 1
        return max(fewest, math.ceil(3 * cache / size))


@dataclass
class Measurement:
    """What was seen of a provider, or why there is nothing.

    Attributes:
        call: what is timed.
        result: of a call, by name.
        peak: MiB above operands and results.
        times: milliseconds of each call.
        error: why there is nothing.
    """

    call: Call | None = None
    result: Result = field(default_factory=dict)
    peak: float = math.nan
    times: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def median(self) -> float:
        """The median time."""
        return float(np.median(self.times)) if self.times else math.nan


Measurements = dict[str, Measurement]  # by provider


def in_turn(operands: Sequence[Operands], function: Callable[[Operands], Result]) -> Call:
    """Return a call of the function on the operands in turn."""

    def call(turn: int) -> Result:
        return function(operands[turn % len(operands)])

    return call


def measure(run: Run, providers: Providers, seconds: float, queued: bool = False) -> Measurements:
    """Make every provider, call each twice, then in turns until there are enough calls.

    It stops earlier if no time is left. `queued` puts work before each call, so that the device's
    time is seen and not that of the launches.
    """
    measurements: Measurements = {}
    calls: dict[str, Call] = {}
    for name, make in providers.items():
        if name in run.without:
            continue
        measurements[name] = _prepared(run, make)
        if measurements[name].call is not None:
            calls[name] = measurements[name].call
    seconds = min(seconds, max(run.left(), 1.0))
    share = seconds / max(1, len(calls)) * 1000
    for turn in range(2 if run.quick else REPEATS):
        for name, call in calls.items():
            measurement = measurements[name]
            slow = turn >= FEWEST and sum(measurement.times) > share
            if not measurement.error and not slow:
                _time(run, measurement, call, turn, queued)
    return measurements


def _prepared(run: Run, make: Provider) -> Measurement:
    """Make a provider, warm it up, and see how much memory a call takes."""
    try:
        call = make()
        for turn in range(2):  # compilers and caches allocate in the first ones
            call(turn)
        run.wait()
        if not run.cuda:
            return Measurement(call, call(0))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call(0)
        run.wait()
        of_results = sum(tensor.nbytes for tensor in result.values())
        peak = torch.cuda.max_memory_allocated() - before - of_results
        return Measurement(call, result, peak / MIB)
    except Exception as error:
        return Measurement(error=failure(run, error))
    finally:
        swept(run)


def _time(run: Run, measurement: Measurement, call: Call, turn: int, queued: bool) -> None:
    """Add a call's time to a measurement, or the error that it raises."""
    try:
        measurement.times.append(_milliseconds(run, call, turn, queued))
    except Exception as error:
        measurement.error = failure(run, error)
        measurement.times = []


def _milliseconds(run: Run, call: Call, turn: int, queued: bool) -> float:
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
    """Give memory back, so that the next is not measured with it.

    A lost device has none to give, and says so elsewhere.
    """
    if run.cuda:
        gc.collect()
        with suppress(Exception):
            torch.cuda.empty_cache()


def failure(run: Run, error: Exception) -> str:
    """Return an error in a line.

    One that the device does not survive ends the run, after its rows are written.
    """
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}"[:200]
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
    """Return how many kernels, copies and fills a call runs on the device, by the profiler."""
    if call is None or not run.cuda:
        return math.nan
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call(0)
            run.wait()
        cuda = torch.autograd.DeviceType.CUDA
        return float(sum(event.device_type == cuda for event in profile.events()))
    except Exception:
        return math.nan


def over(
    measurements: Measurements, name: str, base: str = "ours", figure: str = "median"
) -> float:
    """Return a provider's figure over another's; NaN if either has none."""
    if name not in measurements or base not in measurements:
        return math.nan
    upper = getattr(measurements[name], figure)
    lower = getattr(measurements[base], figure)
    return upper / lower if lower > 0 else math.nan


def repeats(measurement: Measurement, result: str, calls: int) -> float:
    """Return 1 if that many calls more give the same result to the bit, 0 if one does not.

    It is NaN if there is nothing to call.
    """
    if measurement.call is None:
        return math.nan
    first = measurement.result[result]
    return float(all(torch.equal(measurement.call(0)[result], first) for _ in range(calls)))


def errors_of(measurements: Measurements, compare: Callable[[Result], Metrics]) -> Errors:
    """Return what a comparison says of each provider's results, where it has any."""
    errors = {}
    for name, measurement in measurements.items():
        if measurement.result:
            errors[name] = compare(measurement.result)
    return errors


def error_of(errors: Errors, name: str, metric: str) -> float:
    """Return an error of a provider, NaN if it has none."""
    of_provider = errors.get(name, {})
    return of_provider.get(metric, math.nan)
