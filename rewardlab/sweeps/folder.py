"""A sweep's folder: which points stand, which failed and why, and where each run is."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.runs import attempts, layout
from rewardlab.runs.locks import lock_file
from rewardlab.runs.records import merge_record, read_record
from rewardlab.storage.atomic import write_atomically
from rewardlab.sweeps.points import Point

STATE_FILE = "sweep.json"
COPY = "sweep.yaml"
SUMMARY = "summary.csv"
PAGE = "sweep.html"
RUNS = "runs"
LOGS = "logs"
WAITING = "waiting"
STATUSES = (attempts.FINISHED, attempts.FAILED, attempts.INTERRUPTED, WAITING)
REASON_LENGTH = 500


class SweepFolder:
    """A sweep's folder: `sweep.yaml`, `sweep.json`, `runs/`, `logs/`, `stages/`, `summary.csv`.

    Whether a run is finished, its own run.json says; sweep.json adds what a run cannot say of
    itself: how often it was tried, and why it failed.

    Args:
        path: the folder.
        stages: the folder of stages that the runs share; `stages/` in it by default.

    Attributes:
        path: the folder.
        stages: the folder of shared stages.

    Example:
        >>> folder = SweepFolder(getfixture("tmp_path") / "sweep")
        >>> folder.status(Point({"a.x": "1"}, seed=0))
        'waiting'
    """

    def __init__(self, path: Path, stages: Path | None = None) -> None:
        self.path = path
        self.stages = path / layout.STAGES_FOLDER if stages is None else stages

    def check(self, resume: bool) -> None:
        """Refuse a folder that cannot be this sweep's; write nothing.

        Raises:
            InputError: if it holds something else, or a sweep and `resume` is not given.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"The sweep's folder {self.path} is a file. Give another --out.")
        stands = (self.path / COPY).is_file()
        others = [item.name for item in self.path.glob("*")]
        if others and not stands:
            raise InputError(
                f"{self.path} is not a sweep's folder: it holds {sorted(others)[0]} but no {COPY}. "
                "Give another --out."
            )
        if stands and not resume:
            raise InputError(
                f"{self.path} holds a sweep already. Add --resume to go on, or give another --out."
            )

    def open(self, text: str) -> None:
        """Make the folder, or go on in it; other processes are kept out as long as this lives.

        Args:
            text: of the sweep's file, which is kept beside the runs.

        Raises:
            InputError: if another process works in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        handle = lock_file(self.path / layout.LOCK_FILE, wait=False)
        if handle is None:
            raise InputError(
                f"Another process is working in {self.path}. Wait for it, or give another --out."
            )
        weakref.finalize(self, os.close, handle)
        write_atomically(self.path / COPY, text)

    def run(self, point: Point) -> Path:
        """Return a point's run folder."""
        return self.path / RUNS / point.run

    def log(self, point: Point) -> Path:
        """Return the file with what a point's runs printed."""
        return self.path / LOGS / f"{point.name}-seed-{point.seed}.txt"

    def lock(self, point: Point) -> Path:
        """Return the file that a point's process holds locked."""
        return self.log(point).with_suffix(".lock")

    def status(self, point: Point) -> str:
        """Return one of STATUSES."""
        facts = read_record(self.run(point) / layout.FACTS_FILE)
        if facts.get("status") == attempts.FINISHED:
            return attempts.FINISHED
        begun = attempts.INTERRUPTED if facts else WAITING
        noted = str(self.noted(point).get("status", begun))
        if noted == attempts.FINISHED:  # and its folder was removed since
            return begun
        return noted

    def noted(self, point: Point) -> dict[str, Any]:
        """Return what sweep.json says of a point: status, exit code, tries, seconds, reason."""
        points = read_record(self.path / STATE_FILE).get("points", {})
        noted: dict[str, Any] = points.get(point.run, {})
        return noted

    def note_end(self, point: Point, code: int, seconds: float) -> str:
        """Note how a try at a point ended, and return its status."""
        status = attempts.FINISHED
        reason = ""
        if self.status(point) != attempts.FINISHED:
            status = attempts.INTERRUPTED if code in (130, 143, 129) else attempts.FAILED
            reason = self._reason(point, code)
        facts = {
            "settings": point.settings,
            "seed": point.seed,
            "status": status,
            "exit_code": code,
            "tries": self.noted(point).get("tries", 0) + 1,
            "seconds": round(seconds, 1),
            "reason": reason,
        }
        merge_record(self.path / STATE_FILE, {"points": {point.run: facts}})
        return status

    def _reason(self, point: Point, code: int) -> str:
        """Return the last line of a failed point's log."""
        try:
            text = self.log(point).read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = lines[-1] if lines else "nothing was printed"
        if code == 0:
            return "The command ended well and left no finished run."
        if code < 0:
            return f"Signal {-code} ended it; last: {last}"[:REASON_LENGTH]
        return last.removeprefix("rewardlab: ")[:REASON_LENGTH]

    def left(self, points: Sequence[Point]) -> list[Point]:
        """Return the points that are not finished, those that failed before behind the others."""
        statuses = [(point, self.status(point)) for point in points]
        fresh = [point for point, status in statuses if status in (WAITING, attempts.INTERRUPTED)]
        failed = [point for point, status in statuses if status == attempts.FAILED]
        return [*fresh, *failed]
