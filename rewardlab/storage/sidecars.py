"""What files say of a folder's pictures: metadata.jsonl or .csv, and texts beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.storage.contents import read_content
from rewardlab.storage.metadata import PROMPT_KEYS, by_file_name, read_lines, read_text
from rewardlab.storage.tables import csv_rows, parquet_rows

# The first of a folder that names a picture counts.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TEXTS = (".txt", ".caption")
Row = dict[str, Any]


class PictureRows(NamedTuple):
    """What files say of pictures.

    Attributes:
        rows: keys and values of each picture, empty where nothing is said.
        absent: pictures that are listed and not there, with the name of the list.
        uncaptioned: how many pictures have no prompt.
    """

    rows: list[Row]
    absent: dict[Path, str]
    uncaptioned: int


def picture_rows(folder: Path, pictures: Sequence[Path], skipped: Sequence[Path]) -> PictureRows:
    """Return what files say of pictures under a folder.

    They are metadata.jsonl, metadata.csv or metadata.parquet, in the folder or in one inside it,
    with "file_name" relative to where they are; and for a picture without a prompt there, a text
    file of its name beside it, as kohya's trainers read them.

    Args:
        folder: the folder.
        pictures: the files that are used.
        skipped: files that are there and not used.

    Raises:
        InputError: if such a file is broken.
    """
    listed: dict[Path, Row] = {}
    lists: dict[Path, str] = {}
    for file in _metadata_files(folder):
        for name, row in _read(file, is_top=file.parent == folder).items():
            path = _path(file.parent, name)
            if path not in listed:
                listed[path] = row
                lists[path] = file.name
    known = {*pictures, *skipped}
    absent = {}
    for path in listed:
        if path not in known and not path.is_file():
            absent[path] = lists[path]
    rows = [_with_text(path, listed.get(path, {})) for path in pictures]
    return PictureRows(rows, absent, sum(not _has_prompt(row) for row in rows))


def _metadata_files(folder: Path) -> list[Path]:
    """Return the metadata files under a folder, the outer ones first."""
    files = []
    for name in METADATA:
        for file in folder.rglob(name):
            inside = file.relative_to(folder).parts
            if not any(part.startswith(".") for part in inside):
                files.append(file)
    return sorted(files, key=lambda file: (len(file.parts), METADATA.index(file.name)))


def _read(file: Path, is_top: bool) -> dict[str, Row]:
    """Return the rows of a metadata file by their "file_name".

    A file inside a folder's folder that names no pictures, as of texts, is passed over.
    """
    if file.suffix == ".jsonl":
        try:
            return by_file_name(file, read_lines(file), "line")
        except InputError:
            if is_top:
                raise
            return {}
    if file.suffix == ".csv":
        rows = _typed([row for _, row in csv_rows(file, read_text(file))])
    else:
        rows = parquet_rows(file, read_content(file))
    return by_file_name(file, rows, "row")


def _typed(rows: list[Row]) -> list[Row]:
    """Return rows of a CSV table with columns of numbers as numbers, so that they become facts."""
    names = [name for name in (rows[0] if rows else ()) if name not in ("file_name", *PROMPT_KEYS)]
    typed = [dict(row) for row in rows]
    for name in names:
        numbers = [_number(row.get(name)) for row in rows]
        if None not in numbers:
            for row, number in zip(typed, numbers, strict=True):
                row[name] = number
    return typed


def _number(cell: Any) -> int | float | None:
    """Return the number that a cell holds, None if it is none."""
    for kind in (int, float):
        try:
            number: int | float = kind(cell)
        except (TypeError, ValueError):
            continue
        return number
    return None


def _path(folder: Path, name: str) -> Path:
    """Return the path that a list names, also as written with backslashes."""
    path = folder / name
    if "\\" in name and not path.exists():
        path = folder / name.replace("\\", "/")
    return path


def _with_text(path: Path, row: Row) -> Row:
    """Return a row with the text of the file beside the picture, if it has no prompt itself."""
    if _has_prompt(row):
        return row
    for suffix in TEXTS:
        for file in (path.with_suffix(suffix), path.with_name(path.name + suffix)):
            if file.is_file():
                return row | {"text": read_text(file).strip()}
    return row


def _has_prompt(row: Row) -> bool:
    return any(row.get(key) not in (None, "") for key in PROMPT_KEYS)
