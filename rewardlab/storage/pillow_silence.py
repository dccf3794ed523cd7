"""Pillow's warnings, left out while any thread reads a picture."""

from __future__ import annotations

import re
import warnings
from threading import Lock
from types import TracebackType

_OF_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class PillowSilence:
    """Ignore the warnings of Pillow's modules while a thread is inside.

    `warnings.catch_warnings` gives back what its own thread saw at the start. Of two threads whose
    blocks overlap, the one that ends last leaves the other's filter behind for good.

    Example:
        >>> before = list(warnings.filters)
        >>> with PillowSilence() as silence, silence:
        ...     warnings.filters[0][0]
        'ignore'
        >>> warnings.filters == before
        True
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0

    def __enter__(self) -> PillowSilence:
        with self._lock:
            self._inside += 1
            warnings.filterwarnings("ignore", module=r"PIL\.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and _OF_PILLOW in warnings.filters:
                warnings.filters.remove(_OF_PILLOW)  # type: ignore[attr-defined]
