"""Rows in parts: how many are drawn at once."""

from __future__ import annotations

from collections.abc import Iterator

from rewardlab.progress import counted


def micro_batches(count: int, size: int | None) -> Iterator[slice]:
    """Yield the slices of `count` rows, `size` rows each, behind a progress bar.

    Several slices show the bar, on a terminal only. No rows are one empty slice.

    Args:
        count: number of rows.
        size: largest number of rows in a slice; None puts all into one.

    Example:
        >>> list(micro_batches(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    size = size or max(count, 1)
    starts = range(0, max(count, 1), size)
    hidden = None if len(starts) > 1 else True
    for start in counted(starts, count, "drawing", hidden=hidden):
        yield slice(start, start + size)
