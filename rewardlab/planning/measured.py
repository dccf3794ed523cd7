"""The peak that torch's own profiler sees of real tensors, to hold plans against."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def measured_peak(run: Callable[[], object]) -> int:
    """Return the largest number of bytes allocated at once while `run` ran, above the start.

    Every allocation of the CPU's allocator counts, also what an operation uses inside itself.

    Example:
        >>> import torch
        >>> 4000 <= measured_peak(lambda: torch.zeros(1000) + 1) < 9000
        True
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    assert results is not None
    changes = []
    for event in results.events():
        if event.name() == "[memory]":
            changes.append((event.start_ns(), event.nbytes()))
    changes.sort(key=lambda change: change[0])
    current = 0
    peak = 0
    for _, size in changes:
        current += size
        peak = max(peak, current)
    return peak
