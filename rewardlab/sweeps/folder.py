"""A sweep's folder: which points stand, which failed and why, and where each run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.runs import attempts, layout
from rewardlab.runs.locks import held_lock
from rewardlab.runs.records import merge_record, read_record
from rewardlab.storage.atomic import write_atomically
from rewardlab.sweeps.points import Point, Settings
from rewardlab.sweeps.pruning import Verdict

STATE_FILE = "sweep.json"
COPY = "sweep.yaml"
SUMMARY = "summary.csv"
PAGE = "sweep.html"
RUNS = "runs"
LOGS = "logs"
QUEUE = "queue"
WAITING = "waiting"
PRUNED = "pruned"
STATUSES = (attempts.FINISHED, attempts.FAILED, attempts.INTERRUPTED, WAITING, PRUNED)
REASON_LENGTH = 500


class SweepFolder:
    """A sweep's folder: `sweep.yaml`, `sweep.json`, `runs/`, `logs/`, `stages/`, `summary.csv`.

    Whether a run is finished, its own run.json says; sweep.json adds what a run cannot say of
    itself: how often it was tried, why it failed, why it was ended early, and which points a search
    chose.

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

        Another object of this process may have it open: runs are locked one by one.

        Args:
            text: of the sweep's file, which is kept beside the runs.

        Raises:
            InputError: if another process works in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = held_lock(self.path / layout.LOCK_FILE)
        if self._lock is None:
            raise InputError(
                f"Another process is working in {self.path}. Wait for it, or give another --out."
            )
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

    @property
    def queue(self) -> Path:
        """The folder of a launcher's own files."""
        return self.path / QUEUE

    def status(self, point: Point) -> str:
        """Return one of STATUSES; one that was pruned is so even if its run is finished."""
        noted = str(self.noted(point).get("status", ""))
        if noted == PRUNED:
            return PRUNED
        facts = read_record(self.run(point) / layout.FACTS_FILE)
        if facts.get("status") == attempts.FINISHED:
            return attempts.FINISHED
        begun = attempts.INTERRUPTED if facts else WAITING
        if noted in ("", attempts.FINISHED):  # finished, and its folder was removed since
            return begun
        return noted

    def noted(self, point: Point) -> dict[str, Any]:
        """Return what sweep.json says of a point: status, exit code, tries, seconds, reason."""
        points = read_record(self.path / STATE_FILE).get("points", {})
        noted: dict[str, Any] = points.get(point.run, {})
        return noted

    def note_end(
        self, point: Point, code: int, seconds: float, verdict: Verdict | None = None
    ) -> str:
        """Note how a try at a point ended, and return its status.

        Args:
            point: the point.
            code: the exit code; negative where a signal ended the run.
            seconds: how long it took.
            verdict: why its readings end it, if they do.
        """
        status = attempts.FINISHED
        reason = ""
        readings = None
        if verdict is not None:
            status = PRUNED
            reason = verdict.reason
            readings = verdict.readings
        elif self.status(point) != attempts.FINISHED:
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
            "readings": readings,
        }
        self._note({"points": {point.run: facts}})
        return status

    def note_verdict(self, point: Point, verdict: Verdict | None) -> None:
        """Note that a run's readings end it, or that they do not any more."""
        if verdict is not None:
            facts = {"status": PRUNED, "reason": verdict.reason, "readings": verdict.readings}
            self._note({"points": {point.run: facts}})
        elif self.status(point) == PRUNED:
            facts = {"status": attempts.INTERRUPTED, "reason": "", "readings": None}
            self._note({"points": {point.run: facts}})

    @property
    def rule(self) -> str | None:
        """The rule, as a text, by which runs were ended last; None in a new folder."""
        rule: str | None = read_record(self.path / STATE_FILE).get("rule")
        return rule

    def keep_rule(self, rule: str) -> None:
        """Note the rule by which runs are ended."""
        self._note({"rule": rule})

    def chosen(self, search: str) -> list[Settings]:
        """Return the points that a search chose so far.

        Args:
            search: its settings as a text, without the number of points.

        Raises:
            InputError: if they were chosen by other settings.
        """
        record = read_record(self.path / STATE_FILE)
        if record.get("search", search) != search:
            raise InputError(
                f"The search in {self.path} has other settings than the sweep's file, so its "
                "points would not be those of one search. Only count: and seeds: may grow: put "
                "search: back as it was, or give another --out."
            )
        return [dict(pairs) for pairs in record.get("chosen", [])]

    def keep_chosen(self, search: str, settings: Sequence[Settings]) -> None:
        """Note the points that a search chose, before any of them runs; keys keep their order."""
        pairs = [list(one.items()) for one in settings]
        self._note({"search": search, "chosen": pairs})

    def _note(self, facts: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        merge_record(self.path / STATE_FILE, facts)

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
