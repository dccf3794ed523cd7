"""Prompts from a file."""

from __future__ import annotations

import logging
from pathlib import Path

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.storage.metadata import read_lines, read_text

_log = logging.getLogger("rewardlab")


def read_prompts(path: str | Path, strict: bool = False) -> list[Prompt]:
    r"""Return the prompts of a UTF-8 text file, one a line, or of a .jsonl file.

    A line of a .jsonl file has the key "prompt". A byte order mark and Windows' line ends are
    removed. A prompt that holds line breaks needs the .jsonl form.

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
    blank_lines = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if len(blank_lines) == len(lines):
        raise InputError(f"{path} holds no prompts. Write one a line.")
    if blank_lines:
        _report_blank(path, blank_lines, len(lines), strict)
    prompts: list[Prompt] = [line for line in lines if line.strip()]
    return prompts


def _report_blank(path: Path, blank_lines: list[int], total: int, strict: bool) -> None:
    """Log how many lines are blank, or refuse them if `strict`."""
    first = blank_lines[0]
    count = len(blank_lines)
    if strict:
        raise InputError(
            f"{path}, line {first} is blank, and {count} lines in all. "
            "Remove them, or leave `strict` off."
        )
    _log.warning(
        "Skipped %d blank lines of %d in %s (the first: line %d)", count, total, path, first
    )


def _from_lines(path: Path) -> list[str]:
    text = read_text(path).replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n")


def _from_objects(path: Path) -> list[str]:
    prompts = []
    for number, row in enumerate(read_lines(path), 1):
        prompt = row.get("prompt")
        if not isinstance(prompt, str):
            raise InputError(
                f'{path}, object {number} has no string "prompt"; it has {sorted(row)}. '
                "Rename its key."
            )
        prompts.append(prompt)
    return prompts
