"""Prompts from a file."""

from __future__ import annotations

import logging
from pathlib import Path

from rewardlab.errors import InputError
from rewardlab.storage.metadata import read_lines, read_text

_log = logging.getLogger("rewardlab")


def read_prompts(path: str | Path, strict: bool = False) -> list[str]:
    r"""Return the prompts of a UTF-8 text file, one a line, or of a .jsonl file, the "prompt" of
    each line.

    A byte order mark and Windows' line ends are taken off. A prompt that holds line breaks needs
    the .jsonl form.

    Args:
        path: the file.
        strict: refuse blank lines, instead of skipping them with a warning.

    Raises:
        InputError: if the file is missing, empty or not UTF-8, or a line of a .jsonl file has no
            prompt.

    Example:
        >>> path = getfixture("tmp_path") / "prompts.txt"
        >>> _ = path.write_bytes(b"a cat\r\na dog\r\n")
        >>> read_prompts(path)
        ['a cat', 'a dog']
    """
    path = Path(path)
    lines = _from_objects(path) if path.suffix == ".jsonl" else _from_lines(path)
    blank = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if len(blank) == len(lines):
        raise InputError(f"{path} holds no prompts. Write one a line.")
    if blank and strict:
        raise InputError(
            f"{path}, line {blank[0]} is blank, and {len(blank)} lines in all. Remove them, or leave `strict` off."
        )
    if blank:
        _log.warning(
            "Skipped %d blank lines of %d in %s (the first: line %d)",
            len(blank),
            len(lines),
            path,
            blank[0],
        )
    return [line for line in lines if line.strip()]


def _from_lines(path: Path) -> list[str]:
    text = read_text(path).replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n")


def _from_objects(path: Path) -> list[str]:
    rows = read_lines(path)
    wrong = next(
        (number for number, row in enumerate(rows, 1) if not isinstance(row.get("prompt"), str)),
        None,
    )
    if wrong is not None:
        raise InputError(
            f'{path}, object {wrong} has no string "prompt"; it has {sorted(rows[wrong - 1])}. Rename its key.'
        )
    return [row["prompt"] for row in rows]
