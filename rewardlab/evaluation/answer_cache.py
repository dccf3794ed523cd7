"""Answers of chat models that outlive a run: a file each in a folder, named by what was asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.storage.atomic import write_atomically


class AnswerCache:
    """A folder of answers, each in a file that is named by the hash of its question.

    Files are written whole, so that several runs may share a folder, and one that is killed leaves
    no part of an answer. Nothing is ever deleted.

    Args:
        folder: which is made when the first answer is kept.

    Example:
        >>> cache = AnswerCache(getfixture("tmp_path") / "answers")
        >>> question = {"model": "judge", "item": "It is short.", "response": "yes"}
        >>> cache.read(question)
        >>> cache.keep(question, 1.0)
        >>> cache.read(question)
        1.0
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, question: dict[str, Any]) -> float | None:
        """Return the answer, or None if there is none.

        Raises:
            InputError: if its file is damaged.
        """
        file = self._file(question)
        if not file.is_file():
            return None
        try:
            return float(json.loads(file.read_text(encoding="utf-8"))["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} should hold an answer that was kept, and cannot be read: {error!r}. Was "
                "it edited? Remove it, and the question is asked again."
            ) from error

    def keep(self, question: dict[str, Any], answer: float) -> None:
        """Write an answer; an equal question's is replaced."""
        file = self._file(question)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"answer": answer}) + "\n")

    def _file(self, question: dict[str, Any]) -> Path:
        text = json.dumps(question, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"
