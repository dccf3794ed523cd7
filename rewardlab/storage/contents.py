"""What a file holds, told by its first bytes rather than by its name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError

# Names of compressed files end so; what decides are the first bytes.
PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# Beginnings of files that hold no text, each with what it is called and how to mend it.
_BINARY = {
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"PK\x03\x04": "a ZIP archive or an Excel file. Unpack it, or save the sheet as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd. Unpack it",
    b"SQLite format 3": "an SQLite database. Save the table as JSON lines",
    b"\x89HDF": "an HDF5 file. Save it as JSON lines",
    b"\x93NUMPY": "a NumPy array. Save it as JSON lines",
    b"\xff\xfe": "text in UTF-16. Save it as UTF-8",
    b"\xfe\xff": "text in UTF-16. Save it as UTF-8",
    b"version https://git-lfs": "a pointer of Git LFS. Fetch the file itself: git lfs pull",
}
_PARQUET = b"PAR1"
_FEWEST_BYTES = 2**26  # unpacked, that are always allowed
_MOST_RATIO = 200  # of a file's size to its packed size; text packs to a tenth or so


def read_content(path: Path) -> bytes:
    """Return a file's bytes, unpacked if it is compressed by gzip, bzip2 or xz.

    Raises:
        InputError: if it cannot be read or unpacked, or would fill the memory.

    Example:
        >>> path = getfixture("tmp_path") / "prompts.txt.gz"
        >>> _ = path.write_bytes(gzip.compress(b"a cat"))
        >>> read_content(path)
        b'a cat'
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Is the path right?") from None
    for beginning, opener in _OPENERS.items():
        if content.startswith(beginning):
            return _unpacked(path, content, opener)
    return content


def _unpacked(path: Path, content: bytes, opener: Any) -> bytes:
    """Return the bytes inside a compressed file."""
    most = max(_FEWEST_BYTES, _MOST_RATIO * len(content))
    try:
        with opener(io.BytesIO(content)) as file:
            unpacked: bytes = file.read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"{path} is compressed and cannot be unpacked ({error}). "
            "Was it copied in part? Copy it again."
        ) from None
    if len(unpacked) > most:
        raise InputError(
            f"{path} unpacks to more than {most // 2**20} MiB, {_MOST_RATIO} times its size or "
            "more. If it is what you mean, unpack it yourself."
        )
    return unpacked


def is_parquet(content: bytes) -> bool:
    """Tell whether a file is a parquet table, whatever its name.

    Example:
        >>> is_parquet(b"PAR1 and so on"), is_parquet(b"a cat")
        (True, False)
    """
    return content.startswith(_PARQUET)


def is_arrow(content: bytes) -> bool:
    """Tell whether a file is an Arrow file or stream, as `datasets` keeps its tables.

    Example:
        >>> is_arrow(b"ARROW1 and so on")
        True
    """
    return content.startswith((b"ARROW1", b"\xff\xff\xff\xff"))


def is_binary(content: bytes) -> bool:
    """Tell whether a file begins as one that holds no text in UTF-8.

    Example:
        >>> is_binary(b"PK\x03\x04"), is_binary(b"prompt,response")
        (True, False)
    """
    return content.startswith((_PARQUET, *_BINARY))


def decoded(path: Path, content: bytes) -> str:
    """Return a file's bytes as text in UTF-8, without a byte order mark.

    Raises:
        InputError: if they are no text; what they are is named, or the line of the first wrong
            byte.

    Example:
        >>> decoded(Path("prompts.txt"), b"a cat")
        'a cat'
    """
    if is_parquet(content):
        raise InputError(f"{path} is a parquet table, and text is read here. Save it as text.")
    for beginning, name in _BINARY.items():
        if content.startswith(beginning):
            raise InputError(f"{path} is {name}.")
    if content[257:262] == b"ustar":
        raise InputError(
            f"{path} is a tar archive, of which only scoring reads samples. Unpack it."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise InputError(
            f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8."
        ) from None


def plain_suffix(path: Path) -> str:
    """Return the suffix of a name without that of its compression, in small letters.

    Example:
        >>> plain_suffix(Path("pairs.JSONL.gz")), plain_suffix(Path("prompts.txt"))
        ('.jsonl', '.txt')
    """
    if path.suffix.lower() in PACKED_SUFFIXES:
        path = path.with_suffix("")
    return path.suffix.lower()
