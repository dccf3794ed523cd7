"""Rows of a file in whatever form people keep them: JSON, CSV, parquet, compressed or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.storage.contents import (
    decoded,
    is_arrow,
    is_parquet,
    plain_suffix,
    read_content,
)
from rewardlab.storage.tables import (
    CSV_SUFFIXES,
    arrow_rows,
    csv_rows,
    dataset_rows,
    header,
    is_dataset,
    parquet_rows,
)

FORMS = "JSON lines, a JSON array, CSV, TSV or parquet"


class Record(NamedTuple):
    """A row of a file, or why it is none.

    Attributes:
        place: where it is, such as "line 3".
        row: the values by their keys; empty where there is a problem.
        problem: None, or "not JSON" or "not an object".
    """

    place: str
    row: dict[str, Any]
    problem: str | None = None


def read_records(path: str | Path, columns: Sequence[str] = ()) -> list[Record]:
    r"""Return the rows of a file, by what it holds rather than by its name.

    It is JSON lines, a JSON array of objects, a CSV table (with commas, tabs or semicolons), a
    parquet or Arrow table, each also compressed by gzip, bzip2 or xz; or a folder that
    `save_to_disk` of `datasets` wrote.

    Args:
        path: the file or folder.
        columns: names that tell a CSV table by its first line where the file is not called so.

    Raises:
        InputError: if it cannot be read at all. A broken line of JSON is a record with a problem.

    Example:
        >>> path = getfixture("tmp_path") / "rows.jsonl"
        >>> _ = path.write_text('{"prompt": "hi"}\n{"prompt"')
        >>> read_records(path)[0].row, read_records(path)[1].problem
        ({'prompt': 'hi'}, 'not JSON')
    """
    path = Path(path)
    if path.is_dir() and is_dataset(path):
        return _numbered(dataset_rows(path))
    content = read_content(path)
    if is_parquet(content):
        return _numbered(parquet_rows(path, content))
    if is_arrow(content):
        return _numbered(arrow_rows(path, content))
    return text_records(path, decoded(path, content), columns)


def text_records(path: Path, text: str, columns: Sequence[str] = ()) -> list[Record]:
    """Return the rows of a text in JSON or CSV; see `read_records`."""
    whole = _whole(text) if _may_be_whole(path, text) else None
    if whole is not None:
        return whole
    if _is_csv(path, text, columns):
        return [Record(f"line {line}", row) for line, row in csv_rows(path, text)]
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            records.append(_record(f"line {number}", line))
    return records


def is_json(text: str) -> bool:
    """Tell whether a text is JSON lines or an array, by its beginning.

    Example:
        >>> is_json('{"prompt": "a cat"}'), is_json('["a cat"]'), is_json("[a cat]")
        (True, True, False)
    """
    first = text.lstrip()
    if first.startswith("["):
        return _whole(text) is not None
    return first.startswith("{") and _record("", first.split("\n", 1)[0]).problem is None


def _may_be_whole(path: Path, text: str) -> bool:
    """Tell whether a text may be one JSON value over several lines."""
    return text.lstrip().startswith("[") or plain_suffix(path) == ".json"


def _whole(text: str) -> list[Record] | None:
    """Return the objects of a JSON array, or a single object; None if the text is neither."""
    value = parsed(text)
    if isinstance(value, dict):
        rows = _only_list(value)
        value = [value] if rows is None else rows
    if not isinstance(value, list):
        return None
    return [_object(f"object {number}", item) for number, item in enumerate(value, 1)]


def _only_list(value: dict[str, Any]) -> list[Any] | None:
    """Return the list of objects that is all that a mapping holds, such as under "data"."""
    values = list(value.values())
    if len(values) != 1 or not isinstance(values[0], list):
        return None
    holds_objects = values[0] and all(isinstance(item, dict) for item in values[0])
    is_messages = holds_objects and "role" in values[0][0]
    return values[0] if holds_objects and not is_messages else None


def _is_csv(path: Path, text: str, columns: Sequence[str]) -> bool:
    if text.lstrip().startswith("{"):
        return False
    if plain_suffix(path) in CSV_SUFFIXES:
        return True
    return bool(columns) and set(columns) <= set(header(text))


def _record(place: str, line: str) -> Record:
    value = parsed(line)
    if value is None and line.strip() != "null":
        return Record(place, {}, "not JSON")
    return _object(place, value)


def _object(place: str, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(place, {}, "not an object")
    return Record(place, value)


def parsed(text: str) -> Any:
    """Return the value of a JSON text, None if it is none.

    Example:
        >>> parsed("[1]"), parsed("[1")
        ([1], None)
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also of numbers with thousands of digits
        return None


def _numbered(rows: Sequence[dict[str, Any]]) -> list[Record]:
    return [Record(f"row {number}", row) for number, row in enumerate(rows, 1)]


def usable_rows(path: str | Path, shape: str) -> list[Record]:
    """Return the rows of a file, of which none may be broken.

    Args:
        path: the file.
        shape: what a row should be, for the message.

    Raises:
        InputError: naming the first broken row, or if there are none.
    """
    records = read_records(path)
    if not records:
        raise InputError(f"{path} holds no rows. One should be {shape}, as {FORMS}.")
    for record in records:
        if record.problem is not None:
            raise InputError(
                f"{path}, {record.place} is {record.problem}. It should be {shape}; mend or "
                "remove it."
            )
    return records
