"""How far the work at hand is: bars on a terminal, and sentences for a run's log file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

_counts: list[Count] = []  # the innermost last


class Count:
    """Rows or steps of one piece of work.

    Attributes:
        what: name of the work, such as "scoring".
        done: how many are done.
        total: how many there are; infinite if nobody knows.
    """

    def __init__(self, what: str, total: float) -> None:
        self.what = what
        self.done = 0
        self.total = total
        self._first = 0
        self._start = time.monotonic()

    def begin(self, done: int = 0) -> None:
        """Show the count from now on; `done` of it were done before."""
        self.done = done
        self._first = done
        self._start = time.monotonic()
        _counts.append(self)

    def end(self) -> None:
        """Show the count no longer."""
        if self in _counts:
            _counts.remove(self)

    def sentence(self) -> str:
        """Return how far the work is, its rate and the time left."""
        text = f"{self.what} {self.done:,}"
        if math.isfinite(self.total):
            text += f" of {self.total:,.0f}"
        rate = (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)
        if rate > 0:
            text += f", {rate:.3g} a second"
            if math.isfinite(self.total):
                text += f", {duration((self.total - self.done) / rate)} left"
        return text


def counted(starts: Sequence[int], total: int, what: str, *, hidden: bool | None) -> Iterator[int]:
    """Yield the first row of each batch, behind a bar on a terminal, and count the rows.

    Args:
        starts: the first row of each batch.
        total: number of rows.
        what: name of the work.
        hidden: True shows no bar, None shows it on a terminal.

    Example:
        >>> for start in counted(range(0, 5, 2), 5, "scoring", hidden=True):
        ...     print(start, (current() or "").partition(",")[0])
        0 scoring 0 of 5
        2 scoring 2 of 5
        4 scoring 4 of 5
        >>> current() is None
        True
    """
    count = Count(what, total)
    count.begin()
    try:
        bar: Any = tqdm(starts, what, leave=False, disable=hidden)
        for start in bar:
            count.done = start
            yield start
    finally:
        count.end()


def current() -> str | None:
    """Return how far the innermost piece of work is, or None if nothing is counted."""
    return _counts[-1].sentence() if _counts else None


def duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
