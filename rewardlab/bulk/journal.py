"""What is scored so far, in a file beside the output, so that a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from rewardlab.bulk.judging import Verdict
from rewardlab.errors import InputError
from rewardlab.runs.locks import lock_handle

SUFFIX = ".part"


class Results:
    """What a reward says of N rows, in their order.

    Args:
        count: N.

    Attributes:
        scores: float32 [N], NaN where a row is not scored.
        reasons: why a row is not scored, by its number.
        members: float32 [N, M], None if they were not asked for.
        done: bool [N], which rows were looked at.
    """

    def __init__(self, count: int) -> None:
        self.scores = torch.full((count,), torch.nan)
        self.reasons: dict[int, str] = {}
        self.members: Tensor | None = None
        self.done = torch.zeros(count, dtype=torch.bool)

    def add(self, rows: Sequence[int], verdict: Verdict) -> None:
        """Take in what was said of some rows."""
        places = torch.tensor(rows)
        self.scores[places] = verdict.scores
        self.done[places] = True
        for row, reason in zip(rows, verdict.reasons, strict=True):
            self.reasons.pop(row, None)
            if reason:
                self.reasons[row] = reason
        if verdict.members is None:
            return
        if self.members is None:
            self.members = torch.full((len(self.scores), verdict.members.shape[1]), torch.nan)
        self.members[places] = verdict.members

    @property
    def scored(self) -> Tensor:
        """Which rows are scored, bool [N]."""
        return ~self.scores.isnan()


class JournalFile:
    """A file of JSON lines: the first says what the parts depend on, each other line is a part.

    The file is made when the first part is done. A last line that a kill cut off is dropped.

    Args:
        path: of the file; None keeps nothing.
        job: what the parts depend on; see `check_job`.
    """

    def __init__(self, path: Path | None, job: Mapping[str, Any]) -> None:
        self.path = path
        self.job = dict(job)
        self._file: BinaryIO | None = None

    def check_new(self) -> None:
        """Refuse to begin anew where a run that did not end has left the file.

        Raises:
            InputError: if the file is there.
        """
        if self.path is not None and self.path.exists():
            raise InputError(
                f"{self.path} stands from a run that did not end. Give --resume to go on from it, "
                "or remove it to begin anew."
            )

    def lines(self) -> list[dict[str, Any]]:
        """Return the parts that the file holds, none without a file, and lock it for this run.

        Raises:
            InputError: if it is of another job, or no journal.
        """
        if self.path is None or not self.path.exists():
            return []
        self._file = self._opened(self.path)
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines:
            self.remove()
            return []
        check_job(self.path, _parsed(self.path, lines[0]).get("job"), self.job)
        parts = [_parsed(self.path, line) for line in lines[1:]]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return parts

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a part."""
        if self.path is None:
            return
        if self._file is None:
            self._file = self._opened(self.path)
            if self.path.stat().st_size:
                raise _is_busy(self.path)
            self._file.write(_line({"job": self.job}))
        self._file.write(_line(line))
        self._file.flush()

    @staticmethod
    def _opened(path: Path) -> BinaryIO:
        """Return the file, locked, so that no two runs write it.

        Raises:
            InputError: if another run has it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        if not lock_handle(file.fileno(), wait=False):
            file.close()
            raise _is_busy(path)
        return file

    def close(self) -> None:
        """Have the system write the file to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file, whose results stand elsewhere now."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Journal(JournalFile):
    """A journal of scores, with a line for each batch.

    Args:
        path: of the file; None keeps nothing.
        job: what the scores depend on; see `check_job`.
        results: what is scored.
    """

    def __init__(self, path: Path | None, job: Mapping[str, Any], results: Results) -> None:
        super().__init__(path, job)
        self.results = results

    def resume(self) -> None:
        """Add to the results what the file holds, if there is one.

        Raises:
            InputError: if it is of another job, or no journal.
        """
        for line in self.lines():
            members = line.get("members")
            columns = None
            if members is not None:
                columns = torch.stack([_tensor(row) for row in members])
            verdict = Verdict(_tensor(line["scores"]), line["reasons"], columns)
            self.results.add(line["rows"], verdict)

    def add(self, rows: Sequence[int], verdict: Verdict) -> None:
        """Write the verdict on some rows, and add it to the results."""
        self.results.add(rows, verdict)
        if self.path is None:
            return
        line: dict[str, Any] = {"rows": list(rows), "scores": _values(verdict.scores)}
        line["reasons"] = verdict.reasons
        if verdict.members is not None:
            line["members"] = [_values(row) for row in verdict.members]
        self.write(line)


class Parts:
    """Parts of a result, each made once: those that stand in a journal are not made again.

    Args:
        file: the journal.
        resume: whether what stands in it is taken.

    Raises:
        InputError: as `JournalFile.check_new` and `JournalFile.lines`.

    Example:
        >>> file = getfixture("tmp_path") / "out.part"
        >>> journal = JournalFile(file, {"seed": 0})
        >>> Parts(journal, resume=False)("a", lambda: 0.5)
        0.5
        >>> journal.close()
        >>> journal = JournalFile(file, {"seed": 0})
        >>> Parts(journal, resume=True)("a", lambda: 1 / 0)
        0.5
        >>> journal.remove()
    """

    def __init__(self, file: JournalFile, resume: bool) -> None:
        self.file = file
        self.made: dict[str, Any] = {}
        if resume:
            self.made = {line["part"]: line["value"] for line in file.lines()}
        else:
            file.check_new()

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part, plain data, which is made if it does not stand."""
        if name not in self.made:
            self.made[name] = make()
            self.file.write({"part": name, "value": self.made[name]})
        return self.made[name]


def part_of(out: Path) -> Path:
    """Return where the journal of an output stands.

    Example:
        >>> part_of(Path("scores.csv")).name
        'scores.csv.part'
    """
    return out.with_name(out.name + SUFFIX)


def check_job(file: Path, earlier: Any, job: Mapping[str, Any]) -> None:
    """Refuse to go on with scores that another job made.

    Raises:
        InputError: naming what differs.
    """
    if earlier == job:
        return
    if not isinstance(earlier, dict):
        raise InputError(f"{file} is no journal of scores. Remove it, or give another --out.")
    different = [name for name in job if earlier.get(name) != job[name]]
    different += [name for name in earlier if name not in job]
    raise InputError(
        f"{file} belongs to another run: {' and '.join(different)} differ (it has "
        f"{str({name: earlier.get(name) for name in different})[:200]}). Scores of both would be "
        "mixed. Give another --out, or remove it and begin anew."
    )


def _is_busy(path: Path) -> InputError:
    return InputError(
        f"Another run with this --out writes {path}. Let it end, or give another --out."
    )


def _parsed(path: Path, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"{path} has a broken line: {line[:60]!r}. Remove the file, and begin anew."
        )
    return value


def _line(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()


def _tensor(values: Sequence[float | None]) -> Tensor:
    """Return scores from JSON, NaN for null."""
    return torch.tensor([torch.nan if value is None else value for value in values])


def _values(scores: Tensor) -> list[float | None]:
    """Return scores as JSON holds them, null for NaN."""
    return [None if score != score else score for score in scores.tolist()]
