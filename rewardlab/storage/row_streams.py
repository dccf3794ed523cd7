"""Rows of a file one after the other, so that a file may be larger than memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.storage.contents import is_parquet, plain_suffix
from rewardlab.storage.records import Record, read_records
from rewardlab.storage.tables import check_names, is_dataset, open_dataset

_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_BEGINNING = 64  # bytes that tell what a file holds
_AT_ONCE = 1024  # rows of a table that stand in memory
_MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark


class RowStream:
    """The rows of one file or folder of `datasets`, as often as they are asked for.

    JSON lines, also compressed by gzip, bzip2 or xz, parquet tables and folders of `datasets` are
    read piece by piece. JSON arrays, CSV and Arrow files are read whole by `read_records`, which
    says more of the forms.

    Args:
        path: the file or folder.

    Raises:
        InputError: if it cannot be read, or holds no rows.

    Example:
        >>> path = getfixture("tmp_path") / "rows.jsonl"
        >>> _ = path.write_text('{"prompt": "hi"}\\n\\n{"prompt"')
        >>> stream = RowStream(path)
        >>> len(stream), [record.place for record in stream]
        (2, ['line 1', 'line 3'])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._state = file_state(self.path)
        self._records: list[Record] | None = None
        self._kind = self._kind_of_file()
        if self._kind == "whole":
            self._records = read_records(self.path)
        self._count = self._counted()
        if not self._count:
            raise InputError(
                f"{self.path} holds no rows. One should be an object such as "
                '{"prompt": "…", "response": "…"}. Is it the right file?'
            )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        if self._records is not None:
            yield from self._records
            return
        number = 0
        for record in self._lines() if self._kind == "lines" else self._table_rows():
            if number == self._count:
                raise changed(self.path)
            yield record
            number += 1
        if number != self._count or file_state(self.path) != self._state:
            raise changed(self.path)

    @property
    def schema(self) -> Any:
        """The table's schema of pyarrow, None where the file has none."""
        if self._kind == "parquet":
            return _parquet(self.path).schema_arrow
        if self._kind == "dataset":
            return open_dataset(self.path).features.arrow_schema
        return None

    def _kind_of_file(self) -> str:
        if self.path.is_dir():
            return "dataset" if is_dataset(self.path) else "whole"
        beginning = _beginning(self.path)
        if is_parquet(beginning):
            return "parquet"
        starts_row = beginning.removeprefix(_MARK).lstrip().startswith(b"{")
        return "lines" if starts_row and plain_suffix(self.path) != ".json" else "whole"

    def _counted(self) -> int:
        if self._records is not None:
            return len(self._records)
        if self._kind == "parquet":
            return int(_parquet(self.path).metadata.num_rows)
        if self._kind == "dataset":
            return len(open_dataset(self.path))
        with _opened(self.path) as lines:
            return sum(1 for line in lines if line.strip())

    def _lines(self) -> Iterator[Record]:
        with _opened(self.path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _record(self.path, number, line)

    def _table_rows(self) -> Iterator[Record]:
        number = 0
        for rows in _tables(self.path, self._kind):
            for row in rows:
                number += 1
                yield Record(f"row {number}", row)


def file_state(path: Path) -> tuple[int, int] | None:
    """Return a file's size and time of change, by which one that is written to is noticed."""
    if not path.is_file():
        return None
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def changed(path: Path) -> InputError:
    """Return the sentence on a file that was written to while it was read."""
    return InputError(
        f"{path} changed while it was read, so its rows are not those that were counted. Is "
        "something still writing it? Begin anew when it is whole."
    )


def _tables(path: Path, kind: str) -> Iterator[list[dict[str, Any]]]:
    """Give the rows of a table, some at a time."""
    if kind == "dataset":
        for table in open_dataset(path).with_format("arrow").iter(_AT_ONCE):
            yield table.to_pylist()
        return
    try:
        for batch in _parquet(path).iter_batches(_AT_ONCE):
            yield batch.to_pylist()
    except OSError as error:
        raise _broken(path, error) from None


def _parquet(path: Path) -> Any:
    """Return an open parquet file.

    Raises:
        InputError: if pyarrow is not installed, or the file is broken.
    """
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(
            f"{path} is a parquet table; reading it needs pyarrow: pip install pyarrow. Or save "
            "the table as JSON lines, one object a row."
        ) from None
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # a broken table makes the reader raise nearly anything
        raise _broken(path, error) from None
    check_names(path, file.schema_arrow.names)
    return file


def _broken(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines() or [type(error).__name__]
    return InputError(f"{path} is a broken parquet table ({reason[0][:100]}). Copy it again.")


def _beginning(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked."""
    try:
        with path.open("rb") as file:
            packed = file.read(_BEGINNING)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Is the path right?") from None
    if not any(packed.startswith(beginning) for beginning in _OPENERS):
        return packed
    with _opened(path) as file:
        return bytes(file.read(_BEGINNING))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file of lines, unpacked; what is wrong with a packed one is an InputError."""
    with path.open("rb") as raw:
        beginning = raw.read(8)
    opener: Any = open
    for start, other in _OPENERS.items():
        if beginning.startswith(start):
            opener = other
    try:
        with opener(path, "rb") as file:
            yield io.BufferedReader(file) if opener is not open else file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"{path} cannot be read to its end ({error}). Was it copied in part? Copy it again."
        ) from None


def _record(path: Path, number: int, line: bytes) -> Record:
    """Return a line's row, or why it is none."""
    place = f"line {number}"
    try:
        value = json.loads(line.removeprefix(_MARK).decode())
    except UnicodeDecodeError:
        raise InputError(f"{path}, {place} is not UTF-8. Save the file as UTF-8.") from None
    except (ValueError, RecursionError):  # also of numbers with thousands of digits
        return Record(place, {}, "not JSON")
    if not isinstance(value, dict):
        return Record(place, {}, "not an object")
    return Record(place, value)
