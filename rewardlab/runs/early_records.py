"""What rewardlab's log says before a run's folder is open, kept until a journal takes it.

Configs, models and files are read first, and what is warned of then belongs to the run too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 500  # records that are kept


class EarlyRecords(logging.Filter):
    """Keep the records of rewardlab's log inside a block; all pass.

    Example:
        >>> early = EarlyRecords()
        >>> with early.kept():
        ...     logging.getLogger("rewardlab").warning("A line was skipped.")
        ...     [record.getMessage() for record in early.taken()]
        ['A line was skipped.']
        >>> early.taken()
        []
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if len(self._records) < MOST:
            self._records.append(record)
        return True

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is logged inside the block, until it is taken or the block ends."""
        log = logging.getLogger("rewardlab")
        log.addFilter(self)
        try:
            yield
        finally:
            log.removeFilter(self)
            self._records = []

    def taken(self) -> list[logging.LogRecord]:
        """Return the records so far, and keep no more: whoever takes them listens from now on."""
        logging.getLogger("rewardlab").removeFilter(self)
        records = self._records
        self._records = []
        return records


EARLY = EarlyRecords()  # of the command that runs
