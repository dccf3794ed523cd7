"""Rows of tables: CSV, parquet, Arrow, and folders that `datasets` wrote."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rewardlab.errors import InputError
from rewardlab.storage.cells import listed_in

_DELIMITERS = (",", "\t", ";")
HEAD = 100_000  # letters, in which a first line ends
_AT_ONCE = 64  # rows that are read between two settings of the module's limit
CSV_SUFFIXES = (".csv", ".tsv")
_AS_LINES = "Install it, or save the table as JSON lines, one object a row."


def header(text: str) -> list[str]:
    """Return the names of a CSV table's columns in small letters.

    Example:
        >>> header("Prompt\\tNote\\na cat\\tnone")
        ['prompt', 'note']
    """
    return _header(text, _delimiter(text))


class CsvForm(NamedTuple):
    """How a CSV table is written.

    Attributes:
        delimiter: a comma, a tab or a semicolon.
        names: of the columns, in small letters.
        quoting: of the module `csv`; in tables with tabs quotes are mostly letters.
    """

    delimiter: str
    names: list[str]
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL


def csv_form(path: Path, text: str) -> CsvForm:
    """Return the form of a CSV table, whose quotes stand around texts.

    Args:
        path: of the table, for messages.
        text: it, or its beginning.

    Raises:
        InputError: if two columns have one name.
    """
    delimiter = _delimiter(text)
    names = _header(text, delimiter)
    check_names(path, names)
    return CsvForm(delimiter, names)


def csv_form_without_quotes(path: Path, form: CsvForm, error: csv.Error) -> CsvForm:
    """Return the form in which quotes are letters, of a table with tabs that has no other.

    Raises:
        InputError: if there are no tabs, or that form was tried.
    """
    if form.delimiter != "\t" or form.quoting == csv.QUOTE_NONE:
        raise InputError(
            f"{path} is no CSV table: {error}. Are its quotes doubled inside quotes?"
        ) from None
    return form._replace(quoting=csv.QUOTE_NONE)


def csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""Give the rows of a CSV table, each with the line where it begins.

    The delimiter is a comma, a tab or a semicolon, whichever makes the most columns. Columns are
    called by small letters. A cell that holds a list of messages, as JSON or as pandas writes it,
    is that list; so is what pandas writes of a
    column of numpy's arrays.

    Raises:
        InputError: if quotes do not match, or two columns have one name.

    Example:
        >>> list(csv_rows(Path("a.csv"), 'Prompt,id\n"a, b",1\n'))
        [(2, {'prompt': 'a, b', 'id': '1'})]
    """
    form = csv_form(path, text)
    try:
        rows = list(csv_cells(path, io.StringIO(text, newline=""), form))
    except csv.Error as error:
        form = csv_form_without_quotes(path, form, error)
        rows = list(csv_cells(path, io.StringIO(text, newline=""), form))
    for line, cells in rows:
        yield line, csv_row(form, cells)


def csv_cells(path: Path, lines: Iterable[str], form: CsvForm) -> Iterator[tuple[int, list[str]]]:
    """Give the cells of each row below the head that has any, with the line where it begins.

    Args:
        path: of the table, for messages.
        lines: of its text, with their ends as they are.
        form: how it is written.

    Raises:
        InputError: if a row has more cells than there are columns.
        csv.Error: if quotes do not match.
    """
    rows = _read_csv(lines, form)
    next(rows, None)
    for line, cells in rows:
        if len(cells) > len(form.names):
            raise InputError(
                f"{path}, line {line} has {len(cells)} cells and the first line {len(form.names)} "
                "columns. Is a text with a delimiter not in quotes?"
            )
        yield line, cells


def csv_row(form: CsvForm, cells: Sequence[str]) -> dict[str, Any]:
    """Return a row's values by the names of their columns."""
    return dict(zip(form.names, map(_cell, cells), strict=False))


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a table with two columns of one name, of which one would be lost.

    Raises:
        InputError: naming the column.
    """
    repeated = [name for name in names if name and names.count(name) > 1]
    if repeated:
        raise InputError(
            f"{path} has the column {repeated[0]!r} twice, so one of them would be lost. Rename or "
            "remove one (in CSV capitals do not matter)."
        )


def _read_csv(lines: Iterable[str], form: CsvForm) -> Iterator[tuple[int, list[str]]]:
    """Give the cells of each row that has any, with the line where it begins."""
    reader = csv.reader(lines, delimiter=form.delimiter, quoting=form.quoting, strict=True)
    line = 1
    while block := _block(reader):
        for cells, next_line in block:
            if cells:
                yield line, cells
            line = next_line


def _block(reader: Any) -> list[tuple[list[str], int]]:
    """Return some rows, each with the line behind it; cells may be as long as they are."""
    earlier = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    block = []
    try:
        for cells in islice(reader, _AT_ONCE):
            block.append((cells, reader.line_num + 1))
    finally:
        csv.field_size_limit(earlier)
    return block


def _delimiter(text: str) -> str:
    """Return the delimiter that makes the most columns of the first line."""
    return max(_DELIMITERS, key=lambda delimiter: len(_header(text, delimiter)))


def _header(text: str, delimiter: str) -> list[str]:
    lines = text.lstrip("\r\n")[:HEAD].splitlines()[:1]
    try:
        cells = next(csv.reader(lines, delimiter=delimiter), [])
    except csv.Error:  # of a cell longer than the module's limit
        cells = []
    return [cell.strip().lower() for cell in cells]


def _cell(text: str) -> Any:
    """Return a cell: its text, or the list of messages that it holds."""
    messages = listed_in(text)
    return text if messages is None else messages


def parquet_rows(path: Path, content: bytes) -> list[dict[str, Any]]:
    """Return the rows of a parquet table.

    Raises:
        InputError: if pyarrow is not installed, or the table is broken.
    """
    arrow = _needed("pyarrow", f"{path} is a parquet table")
    parquet = import_module("pyarrow.parquet")
    return _rows_of(path, lambda: parquet.read_table(arrow.BufferReader(content)), "parquet table")


def arrow_rows(path: Path, content: bytes) -> list[dict[str, Any]]:
    """Return the rows of an Arrow file or stream.

    Raises:
        InputError: if pyarrow is not installed, or the table is broken.
    """
    arrow = _needed("pyarrow", f"{path} is an Arrow table")
    ipc = import_module("pyarrow.ipc")
    open_table = ipc.open_file if content.startswith(b"ARROW1") else ipc.open_stream
    return _rows_of(path, lambda: open_table(arrow.BufferReader(content)).read_all(), "Arrow table")


def _rows_of(path: Path, read: Any, kind: str) -> list[dict[str, Any]]:
    try:
        table = read()
        rows: list[dict[str, Any]] = table.to_pylist()
    except Exception as error:  # a broken table makes the reader raise nearly anything
        reason = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} is a broken {kind} ({reason[0][:100]}). Was it copied in part?"
        ) from None
    check_names(path, table.column_names)
    return rows


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is one that `save_to_disk` of `datasets` wrote."""
    if (folder / "dataset_dict.json").is_file():
        return True
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def open_dataset(folder: Path) -> Any:
    """Return a folder that `save_to_disk` of `datasets` wrote, whose rows stay on the disk.

    Raises:
        InputError: if `datasets` is not installed, the folder is broken, or it has several splits.
    """
    datasets = _needed("datasets", f"{folder} is a folder of `datasets`")
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever a broken folder makes it raise
        reason = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            f"{folder} is a broken folder of `datasets` ({reason[0][:100]}). Copy it again."
        ) from None
    if isinstance(dataset, dict):
        if len(dataset) != 1:
            names = ", ".join(dataset)
            raise InputError(
                f"{folder} holds the splits {names}. Give the folder of one: {folder}/NAME."
            )
        dataset = next(iter(dataset.values()))
    return dataset


def dataset_rows(folder: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a folder that `save_to_disk` of `datasets` wrote.

    Raises:
        InputError: if `datasets` is not installed, the folder is broken, or it has several splits.
    """
    dataset = open_dataset(folder)
    rows: Sequence[dict[str, Any]] = dataset.to_list()
    return rows


def _needed(package: str, what: str) -> Any:
    """Return a package, or say what it is needed for."""
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"{what}; reading it needs {package}. {_AS_LINES}") from None
