"""Rows of a file one after the other, so that a file may be larger than memory."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
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
from rewardlab.storage.contents import (
    decoded,
    is_binary,
    is_parquet,
    plain_suffix,
    read_content,
)
from rewardlab.storage.records import Record, read_records
from rewardlab.storage.tables import (
    CSV_SUFFIXES,
    HEAD,
    CsvForm,
    check_names,
    csv_cells,
    csv_form,
    csv_form_without_quotes,
    csv_row,
    is_dataset,
    open_dataset,
)

_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_BEGINNING = 64  # bytes that tell what a file holds
_AT_ONCE = 1024  # rows of a table that stand in memory
_BUFFER = 2**16  # bytes that are read at once where the digest is taken
_MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark


class RowStream:
    """The rows of one file or folder of `datasets`, as often as they are asked for.

    JSON lines and CSV, also compressed by gzip, bzip2 or xz, parquet tables and folders of
    `datasets` are read piece by piece. JSON arrays and Arrow files are read whole by
    `read_records`, which says more of the forms.

    Lines and rows of CSV are counted in one pass, which also takes the digest of the file's bytes.

    Args:
        path: the file or folder.

    Attributes:
        digest: of the file's bytes by SHA-256; None where it was not read whole.

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
        self.digest: bytes | None = None
        self._form: CsvForm | None = None
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
        readers = {"lines": self._lines, "csv": self._csv_rows}
        for record in readers.get(self._kind, self._table_rows)():
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

    @property
    def names(self) -> list[str] | None:
        """The names of all columns, None where each row has its own."""
        if self._form is not None:
            return self._form.names
        schema = self.schema
        return None if schema is None else list(schema.names)

    def _kind_of_file(self) -> str:
        if self.path.is_dir():
            return "dataset" if is_dataset(self.path) else "whole"
        beginning = _beginning(self.path)
        if is_parquet(beginning):
            return "parquet"
        text = beginning.removeprefix(_MARK).lstrip()
        if text.startswith(b"{"):
            return "whole" if plain_suffix(self.path) == ".json" else "lines"
        may_be_csv = plain_suffix(self.path) in CSV_SUFFIXES
        is_other = text.startswith(b"[") or is_binary(beginning) or not text
        return "csv" if may_be_csv and not is_other else "whole"

    def _counted(self) -> int:
        if self._records is not None:
            return len(self._records)
        if self._kind == "parquet":
            return int(_parquet(self.path).metadata.num_rows)
        if self._kind == "dataset":
            return len(open_dataset(self.path))
        return self._counted_csv() if self._kind == "csv" else self._counted_lines()

    def _counted_lines(self) -> int:
        with Digest(self.path) as digest:
            with _opened(self.path, digest) as lines:
                count = sum(1 for line in lines if line.strip())
            self.digest = digest.finished()
        return count

    def _counted_csv(self) -> int:
        """Count the rows, and find out the table's form; in the second try quotes are letters."""
        with _opened_text(self.path) as text:
            self._form = csv_form(self.path, text.read(HEAD))
        try:
            return self._counted_cells(self._form)
        except csv.Error as error:
            self._form = csv_form_without_quotes(self.path, self._form, error)
        try:
            return self._counted_cells(self._form)
        except csv.Error as error:
            csv_form_without_quotes(self.path, self._form, error)
            raise

    def _counted_cells(self, form: CsvForm) -> int:
        with Digest(self.path) as digest:
            with _opened_text(self.path, digest) as lines:
                count = sum(1 for _ in csv_cells(self.path, lines, form))
            self.digest = digest.finished()
        return count

    def _csv_rows(self) -> Iterator[Record]:
        assert self._form is not None
        with _opened_text(self.path) as lines:
            for line, cells in csv_cells(self.path, lines, self._form):
                yield Record(f"line {line}", csv_row(self._form, cells))

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


class Digest(io.RawIOBase):
    """A file's bytes, of which SHA-256 is taken on the way.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return how many bytes came."""
        count = self._file.readinto(buffer) or 0
        self._digest.update(memoryview(buffer)[:count])
        return count

    def finished(self) -> bytes:
        """Return the digest of the whole file, also of what nobody asked for."""
        while rest := self._file.read(_BUFFER):
            self._digest.update(rest)
        return self._digest.digest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextmanager
def _opened(path: Path, digest: Digest | None = None) -> Iterator[Any]:
    """Open a file of lines, unpacked; what is wrong with a packed one is an InputError.

    Args:
        path: the file.
        digest: of it, through which it is read.
    """
    with path.open("rb") as raw:
        beginning = raw.read(8)
    opener: Any = None
    for start, other in _OPENERS.items():
        if beginning.startswith(start):
            opener = other
    source = path.open("rb") if digest is None else io.BufferedReader(digest, _BUFFER)
    try:
        if opener is None:
            yield source
        else:
            with opener(source, "rb") as file:
                yield io.BufferedReader(file)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"{path} cannot be read to its end ({error}). Was it copied in part? Copy it again."
        ) from None
    finally:
        if digest is None:
            source.close()
        else:
            source.detach()  # the digest goes on to the file's end


@contextmanager
def _opened_text(path: Path, digest: Digest | None = None) -> Iterator[io.TextIOWrapper]:
    """Open a file of text in UTF-8, with the ends of its lines as they are.

    Raises:
        InputError: naming the line that is not UTF-8.
    """
    try:
        with _opened(path, digest) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            try:
                yield text
            finally:
                text.detach()
    except UnicodeDecodeError:
        decoded(path, read_content(path))  # says where
        raise


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
