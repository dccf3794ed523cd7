"""Rows of results, written as CSV, JSON lines or parquet, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Self, TextIO
from uuid import UUID

from rewardlab.errors import InputError
from rewardlab.storage.atomic import new_file, put_in_place

Row = dict[str, Any]
Rows = Callable[[], Iterable[Row]]
SUFFIXES = (".csv", ".jsonl", ".parquet")
BROKEN_LETTERS = "backslashreplace"  # half a surrogate pair is written as JSON writes it
_AT_ONCE = 1024  # rows of a parquet table that are written at once


def check_out(out: Path, resume: bool) -> None:
    """Refuse a name whose form is not known, whose folder is not there, or that exists.

    Args:
        out: the file.
        resume: whether one that exists may be finished.

    Raises:
        InputError: if so, or if parquet is asked for and pyarrow is not installed.
    """
    if out.exists() and not resume:
        raise InputError(f"{out} exists and is never overwritten. Give another --out.")
    if out.suffix not in SUFFIXES:
        raise InputError(f"--out is a new .csv, .jsonl or .parquet file; got {out}.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"The folder {out.absolute().parent} of --out does not exist. Make it.")
    if out.suffix == ".parquet":
        _arrow()


def check_row(out: Path, row: Row) -> None:
    """Refuse a form that cannot hold a row, such as lines of JSON for pictures' bytes.

    Raises:
        InputError: naming the column.
    """
    file = io.StringIO()
    if out.suffix == ".jsonl":
        write_lines(file, [row])
    if out.suffix == ".csv":
        write_csv(file, [row], list(row))


def write_table(out: Path, rows: Rows, columns: Sequence[str], schema: Any = None) -> None:
    """Write rows to a new file in the form that its name says.

    Args:
        out: a .csv, .jsonl or .parquet file.
        rows: gives the rows, each time that it is called.
        columns: all names that rows have.
        schema: of pyarrow, for parquet; found out from the rows by default.

    Raises:
        InputError: if a value does not fit the form; nothing is written then.

    Example:
        >>> out = getfixture("tmp_path") / "scores.jsonl"
        >>> write_table(out, lambda: [{"row": 0, "score": 0.5}], ["row", "score"])
        >>> out.read_text()
        '{"row": 0, "score": 0.5}\\n'
    """
    if out.suffix == ".parquet" and schema is None:
        schema = _found_schema(rows, columns)
    with new_file(out) as path, _row_writer(path, out.suffix, columns, schema) as write:
        write(rows())


class GrowingTable:
    """A new table that is written while its rows are made, and takes its place when all are there.

    Until then they are in `OUT.part.table`, which is made with the first rows, and which a killed
    process leaves; the next one overwrites it. As a context it removes what is not put in place.

    Args:
        out: a .csv, .jsonl or .parquet file.
        columns: all names that rows have.
        schema: of pyarrow, for parquet.

    Example:
        >>> out = getfixture("tmp_path") / "scores.jsonl"
        >>> with GrowingTable(out, []) as table:
        ...     table.write([{"row": 0}])
        ...     table.write([{"row": 1}])
        ...     table.put_in_place()
        >>> out.read_text()
        '{"row": 0}\\n{"row": 1}\\n'
    """

    def __init__(self, out: Path, columns: Sequence[str], schema: Any = None) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".part.table")
        self.columns = columns
        self.schema = schema
        self._stack = ExitStack()
        self._write: Callable[[Iterable[Row]], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._write is not None:
            self.partial.unlink(missing_ok=True)

    def write(self, rows: Iterable[Row]) -> None:
        """Write further rows."""
        if self._write is None:
            writer = _row_writer(self.partial, self.out.suffix, self.columns, self.schema)
            self._write = self._stack.enter_context(writer)
        self._write(rows)

    def put_in_place(self) -> None:
        """Let the table stand under its name.

        Raises:
            InputError: if there is a file of that name by now.
        """
        self._stack.close()
        check_out(self.out, resume=False)
        put_in_place(self.partial, self.out)


@contextmanager
def _row_writer(
    path: Path, suffix: str, columns: Sequence[str], schema: Any
) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Open a file, and give what writes rows to it in the form that a suffix says."""
    if suffix == ".parquet":
        with _parquet_writer(path, schema) as write:
            yield write
        return
    with path.open("w", encoding="utf-8", errors=BROKEN_LETTERS, newline="") as file:
        if suffix == ".jsonl":
            yield partial(write_lines, file)
        else:
            yield partial(_write_cells, csv_writer(file, columns))


def csv_writer(file: TextIO, columns: Sequence[str]) -> csv.DictWriter[str]:
    """Return what writes rows as CSV, below a head that it has written."""
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    return writer


def write_csv(file: TextIO, rows: Iterable[Row], columns: Sequence[str]) -> None:
    r"""Write rows as CSV with a head; lists and objects are JSON in their cells.

    Example:
        >>> from io import StringIO
        >>> file = StringIO(newline="")
        >>> write_csv(file, [{"row": 0, "prompt": "a, b"}], ["row", "prompt"])
        >>> file.getvalue()
        'row,prompt\r\n0,"a, b"\r\n'
    """
    _write_cells(csv_writer(file, columns), rows)


def _write_cells(writer: csv.DictWriter[str], rows: Iterable[Row]) -> None:
    for row in rows:
        writer.writerow({name: _cell(name, value) for name, value in row.items()})


def write_lines(file: TextIO, rows: Iterable[Row]) -> None:
    """Write rows as lines of JSON."""
    for row in rows:
        file.write(_json(row) + "\n")


def _cell(name: str, value: Any) -> Any:
    """Return a value as a cell."""
    if isinstance(value, list | dict | bytes):
        return _json({name: value})[len(json.dumps(name)) + 3 : -1]
    return value


def _json(row: Row) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(row), ensure_ascii=False, default=_plain)
    except TypeError:
        names = [name for name, value in row.items() if not _is_plain(value)]
        raise InputError(
            f"The column {names[0]!r} holds what neither JSON nor CSV can, such as bytes of "
            "pictures. Give --out FILE.parquet, or leave the input's columns out: --keep scored."
        ) from None


def _without_nan(value: Any) -> Any:
    """Return a value with null for the numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_without_nan, value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, default=_plain)
    except TypeError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Return a date, a duration or a number of fixed digits as JSON holds it."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta | Decimal | UUID):
        return str(value)
    raise TypeError


def _arrow() -> Any:
    try:
        return import_module("pyarrow")
    except ImportError:
        raise InputError(
            "A parquet table needs pyarrow: pip install pyarrow. Or give --out FILE.jsonl."
        ) from None


@contextmanager
def _parquet_writer(path: Path, schema: Any) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Open a parquet file, and give what writes rows to it, some at a time."""
    arrow = _arrow()
    with import_module("pyarrow.parquet").ParquetWriter(path, schema) as writer:

        def write(rows: Iterable[Row]) -> None:
            for block in _blocks(rows):
                with _one_kind(arrow):
                    table = arrow.Table.from_pylist(block, schema=schema)
                writer.write_table(table)

        yield write


def _found_schema(rows: Rows, columns: Sequence[str]) -> Any:
    arrow = _arrow()
    with _one_kind(arrow):
        return _schema(arrow, rows(), columns)


@contextmanager
def _one_kind(arrow: Any) -> Iterator[None]:
    """Say what to do where a column mixes kinds."""
    try:
        yield
    except (arrow.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            "The rows make no parquet table, since a column mixes kinds, or holds what parquet has "
            f"no kind for ({reason[0][:150]}). Give "
            "--out FILE.jsonl, or leave the input's columns out: --keep scored."
        ) from None


def _schema(arrow: Any, rows: Iterable[Row], columns: Sequence[str]) -> Any:
    """Return the schema of rows, found out from all of them."""
    schema = None
    for block in _blocks(rows):
        whole = [_filled(row, columns) for row in block]
        found = arrow.Table.from_pylist(whole).schema
        schemas = [found] if schema is None else [schema, found]
        schema = arrow.unify_schemas(schemas, promote_options="permissive")
    return schema


def _filled(row: Row, columns: Sequence[str]) -> Row:
    """Return a row with every column."""
    return {name: row.get(name) for name in columns}


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    stream = iter(rows)
    while block := list(islice(stream, _AT_ONCE)):
        yield block
