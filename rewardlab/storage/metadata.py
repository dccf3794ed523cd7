"""metadata.jsonl: what is known about each sample of a folder, one line of JSON a sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError

_NOT_FACTS = ("file_name", "prompt", "text", "output")


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without a byte order mark.

    Raises:
        InputError: if it cannot be read, or holds other bytes; the line is named.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Is the path right?") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8. Save the file as UTF-8."
        ) from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; blank lines are passed over.

    Raises:
        InputError: if a line holds anything but a JSON object; file and line are named.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number} is not JSON ({error.msg} at column {error.colno}). Mend or remove it."
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f'{path}, line {number} should be an object such as {{"prompt": "a cat"}}; got {line.strip()[:60]}.'
            )
        rows.append(row)
    return rows


def read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of a metadata.jsonl by their "file_name".

    Raises:
        InputError: if a line is broken or has no file_name.
    """
    rows = read_lines(path)
    nameless = next((row for row in rows if not isinstance(row.get("file_name"), str)), None)
    if nameless is not None:
        raise InputError(
            f'{path} has a line without "file_name": {json.dumps(nameless)[:80]}. Name the image that it describes.'
        )
    return {row["file_name"]: row for row in rows}


def fact_columns(rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Tensor]:
    """Return the numeric keys that all rows share as columns [B].

    Their dtypes are those in the folder's `samples.json`, else bool, int64 or float32.
    """
    dtypes = read_kind(folder).get("facts", {})
    names = [
        name
        for name in (rows[0] if rows else {})
        if name not in _NOT_FACTS and all(_numeric(row.get(name)) for row in rows)
    ]
    return {name: _column([row[name] for row in rows], dtypes.get(name)) for name in names}


def _numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_numeric, value))
    return isinstance(value, float) or (isinstance(value, bool | int) and -(2**63) <= value < 2**63)


def _column(values: list[Any], dtype: str | None) -> Tensor:
    if dtype is not None:
        return torch.tensor(values, dtype=getattr(torch, dtype))
    column = torch.tensor(values)
    return column.float() if column.is_floating_point() else column


def read_kind(folder: Path) -> dict[str, Any]:
    """Return what `save_samples` noted in samples.json: kind, channels and the facts' dtypes; empty
    if it is not there.
    """
    file = folder / "samples.json"
    if not file.is_file():
        return {}
    try:
        kind = json.loads(read_text(file))
    except json.JSONDecodeError:
        kind = None
    if not isinstance(kind, dict):
        raise InputError(
            f"{file} is not the JSON object that was saved. Save the samples again, or remove the file."
        )
    return kind
