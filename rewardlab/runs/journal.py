"""What a run says while it works: a log file, and the diagnostics that its page shows.

`log.txt` has a line for each message of rewardlab's log, and about every minute one that says how
far the stage is. `diagnostics.json` is a list of objects
`{"stage", "level", "sentence", "figures"}`: each warning, and each message that has figures. A
message has figures if it was logged with `extra={"figures": {...}}`.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rewardlab import progress
from rewardlab.runs.damage import UNREADABLE, set_aside
from rewardlab.runs.layout import DIAGNOSTICS_FILE, LOG_FILE
from rewardlab.storage.atomic import write_atomically

MINUTE = 60.0  # seconds between two signs of life in the log file
MOST = 500  # diagnostics of a run; the first are kept
KEYS = ("stage", "level", "sentence", "figures")
log = logging.getLogger("rewardlab")


class Pulse:
    """Call a function about every minute, from a thread of its own."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def start(self, beat: Callable[[], None]) -> None:
        """Call `beat` after each minute until `stop`."""
        over = threading.Event()
        self._over = over

        def run() -> None:
            while not over.wait(MINUTE):
                beat()

        threading.Thread(target=run, name="rewardlab heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._over.set()


class Journal(logging.Filter):
    """Write what rewardlab's log says into a run's folder.

    It is a filter that lets everything pass, since a handler would switch off Python's own last
    resort, which shows warnings where nobody has set up a log.

    Args:
        folder: of the run.

    Attributes:
        stage: name of the stage that is being made, or of the command.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> journal = Journal(folder)
        >>> with journal.listening("1-reward"):
        ...     log.warning("Sizes differ.", extra={"figures": {"size": 1.0}})
        >>> read_diagnostics(folder)
        [{'stage': '1-reward', 'level': 'warning', 'sentence': 'Sizes differ.', 'figures': ...}]
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.stage = ""
        self._listeners = 0
        self._entries: list[dict[str, Any]] | None = None
        self._of_stage: list[dict[str, Any]] = []
        self._pulse = Pulse()

    def _beat(self) -> None:
        self.line(f"{self.stage}: {progress.current() or 'at work'}")

    def filter(self, record: logging.LogRecord) -> bool:
        sentence = record.getMessage()
        self._write_line(record.levelname, sentence)
        figures = getattr(record, "figures", None)
        if record.levelno >= logging.WARNING or figures is not None:
            entry = {
                "stage": self.stage,
                "level": record.levelname.lower(),
                "sentence": sentence,
                "figures": figures or {},
            }
            self._of_stage.append(entry)
            self.note([entry])
        return True

    def line(self, text: str) -> None:
        """Write a line into the log file alone."""
        self._write_line("INFO", text)

    def note(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add diagnostics to the run's; one that says the same of a stage takes its place."""
        if self._entries is None:
            self._entries = read_diagnostics(self.folder)
        changed = False
        for entry in entries:
            places = [place for place, old in enumerate(self._entries) if _same(old, entry)]
            if places and self._entries[places[0]] != entry:
                self._entries[places[0]] = entry
                changed = True
            elif not places and len(self._entries) < MOST:
                self._entries.append(entry)
                changed = True
        if changed:
            _write(self.folder, self._entries)

    @contextmanager
    def listening(self, stage: str) -> Iterator[None]:
        """Write what is logged inside the block, under the name of a stage; blocks may be nested.

        Args:
            stage: name of the stage, or of the command.
        """
        before = self.stage
        entries_before = self._of_stage
        self.stage = stage
        self._of_stage = []
        self._listeners += 1
        if self._listeners == 1:
            log.addFilter(self)
            self._pulse.start(self._beat)
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                log.removeFilter(self)
                self._pulse.stop()
            self.stage = before
            self._of_stage = entries_before

    def keep_with_stage(self, folder: Path) -> None:
        """Write the diagnostics of the stage that is being made into its folder, if there are some.

        A run that takes the stage from another run then has them too.
        """
        if self._of_stage:
            _write(folder, self._of_stage)

    def _write_line(self, level: str, text: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with self.folder.joinpath(LOG_FILE).open("a", encoding="utf-8") as file:
                indented = text.replace("\n", "\n    ")
                file.write(f"{time} {level.lower()} {indented}\n")
        except OSError:  # a full disk stops the run where something that counts is written
            pass


def read_diagnostics(folder: Path) -> list[dict[str, Any]]:
    """Return the diagnostics of a run, or of a stage: objects with the keys of `KEYS`.

    A file that is damaged is renamed, and counts as empty.

    Args:
        folder: of the run or of the stage.
    """
    path = folder / DIAGNOSTICS_FILE
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            raise ValueError
    except UNREADABLE:
        set_aside(path)
        return []
    return entries


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and set(KEYS) <= entry.keys()


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two diagnostics say the same of one stage."""
    return bool(one["stage"] == other["stage"] and one["sentence"] == other["sentence"])


def _write(folder: Path, entries: Sequence[dict[str, Any]]) -> None:
    text = json.dumps(entries, indent=1, ensure_ascii=False, default=str)
    write_atomically(folder / DIAGNOSTICS_FILE, text + "\n")
