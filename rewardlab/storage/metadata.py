"""metadata.jsonl of a folder: one line of JSON for each sample, with its prompt and facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.conversations import Prompt, from_json
from rewardlab.errors import InputError
from rewardlab.storage.contents import decoded, read_content

PROMPT_KEYS = ("prompt", "text", "caption")
_NOT_FACTS = ("file_name", "output", *PROMPT_KEYS)

_MOST_DEPTH = 8  # of lists in a fact


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without a byte order mark; gzip, bzip2 and xz are unpacked.

    Raises:
        InputError: if it cannot be read, or holds no text: what it holds or the line is named.
    """
    return decoded(path, read_content(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, skipping blank lines.

    Raises:
        InputError: if a line holds anything but a JSON object; file and line are named.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            rows.append(_parse_object(line, path, number))
    return rows


def _parse_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        reason = str(error).partition(":")[0]
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at column {error.colno}"
        raise InputError(
            f"{path}, line {number} is not JSON ({reason}). Mend or remove it."
        ) from None
    if not isinstance(row, dict):
        raise InputError(
            f'{path}, line {number} should be an object such as {{"prompt": "a cat"}}; '
            f"got {line.strip()[:60]}."
        )
    return row


def by_file_name(
    path: Path, rows: Sequence[dict[str, Any]], unit: str
) -> dict[str, dict[str, Any]]:
    """Return the rows of a metadata file by their "file_name".

    Args:
        path: of the file, for the message.
        rows: what it holds.
        unit: what a row of it is called.

    Raises:
        InputError: if a row has no file_name.
    """
    for row in rows:
        if not isinstance(row.get("file_name"), str):
            raise InputError(
                f'{path} has a {unit} without "file_name": {json.dumps(row, default=str)[:80]}. '
                "Name the image that it describes."
            )
    return {row["file_name"]: row for row in rows}


def prompt_of(row: dict[str, Any]) -> Prompt:
    """Return the "prompt" of a line, else its "text" or "caption", else the empty string.

    A list of messages is a conversation.

    Raises:
        InputError: if a list holds something else.

    Example:
        >>> prompt_of({"prompt": None, "text": "a cat"}), prompt_of({"prompt": 5}), prompt_of({})
        ('a cat', '5', '')
    """
    for key in PROMPT_KEYS:
        value = row.get(key)
        if isinstance(value, list):
            return from_json(value)
        if value is not None:
            return str(value)
    return ""


def fact_columns(rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Tensor]:
    """Return the numeric keys that all rows share as columns [B].

    Their dtypes are those in the folder's `samples.json`, else bool, int64 or float32. A key whose
    values differ in their shape is left out, as a text is.

    Raises:
        InputError: if values are not of the dtype that was saved.
    """
    dtypes = read_kind(folder).get("facts", {})
    columns = {}
    for name in rows[0] if rows else {}:
        values = [row.get(name) for row in rows]
        if name in _NOT_FACTS or not all(map(_is_numeric, values)):
            continue
        column = _column(values, dtypes.get(name))
        if column is not None:
            columns[name] = column
        elif name in dtypes:
            raise InputError(
                f"{folder}: values of {name!r} in metadata.jsonl are not {dtypes[name]}s of one "
                "shape, as samples.json says. Is one of the files edited or cut off?"
            )
    return columns


def _is_numeric(value: Any, depth: int = 0) -> bool:
    """Tell whether a value, or each item of a list that is not nested too deeply, fits a tensor."""
    if isinstance(value, list):
        return depth < _MOST_DEPTH and all(_is_numeric(item, depth + 1) for item in value)
    if isinstance(value, bool | int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float)


def _column(values: list[Any], dtype: str | None) -> Tensor | None:
    """Return values as a column [B, ...], None if they have several shapes or do not fit."""
    try:
        if dtype is not None:
            return torch.tensor(values, dtype=getattr(torch, dtype))
        column = torch.tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    return column.float() if column.is_floating_point() else column


def read_kind(folder: Path) -> dict[str, Any]:
    """Return what `save_samples` noted in samples.json: rows, channels and the facts' dtypes.

    A folder without the file gives an empty dictionary.

    Raises:
        InputError: if the file holds anything but a JSON object of these.
    """
    file = folder / "samples.json"
    if not file.is_file():
        return {}
    try:
        kind = json.loads(read_text(file))
    except (ValueError, RecursionError):
        kind = None
    if not isinstance(kind, dict) or not _describes(kind):
        raise InputError(
            f"{file} is not the JSON object that was saved. "
            "Save the samples again, or remove the file."
        )
    return kind


def _describes(kind: dict[str, Any]) -> bool:
    """Tell whether the channels and dtypes of a samples.json, where it has them, are such."""
    dtypes = kind.get("facts", {})
    if kind.get("channels", 3) not in (1, 3) or not isinstance(dtypes, dict):
        return False
    named = [getattr(torch, name, None) for name in dtypes.values() if isinstance(name, str)]
    return len(named) == len(dtypes) and all(isinstance(dtype, torch.dtype) for dtype in named)
