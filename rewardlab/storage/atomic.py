"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old contents or the new, never a part.

    Text is written as UTF-8 with the newlines that it has. An existing file is replaced.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> write_atomically(folder / "results.json", '{"auc": 0.9}')
        >>> (folder / "results.json").read_text()
        '{"auc": 0.9}'
    """
    path = Path(path)
    partial = _beside(path)
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON in UTF-8, with a last newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder to fill, which becomes `path` when the block ends well and vanishes when it
    fails.

    A process killed inside the block leaves a hidden `.<name>.<digits>.partial` beside `path`, and
    no `path`.

    Raises:
        InputError: if `path` exists.

    Example:
        >>> target = getfixture("tmp_path") / "stage"
        >>> with atomic_folder(target) as folder:
        ...     _ = (folder / "done.txt").write_text("yes")
        ...     target.exists()
        False
        >>> (target / "done.txt").read_text()
        'yes'
    """
    path = Path(path)
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    partial.mkdir()
    try:
        yield partial
        for item in [*partial.rglob("*"), partial]:
            _flush(item)
        _refuse_existing(path)
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(path.parent)


@contextmanager
def new_folder(folder: str | Path, marker: str = "config.json") -> Iterator[Path]:
    """Give an empty folder to write into, which takes the place of `folder` once the block has
    ended without an error.

    Like `atomic_folder`, but an earlier result of the same kind is replaced.

    Args:
        folder: where the result is to stand.
        marker: a file that an earlier result has; only a folder with it, or an empty one, is
            replaced.

    Raises:
        InputError: if `folder` stands and is something else.

    Example:
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with new_folder(f"{place}/reward") as folder:
        ...         write_json(folder / "config.json", {})
        ...     os.listdir(place)
        ['reward']
    """
    folder = Path(folder)
    if (
        folder.exists()
        and not (folder / marker).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(
            f"{folder} stands already and holds no {marker}, so it is not replaced. Give another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with atomic_folder(work / "new") as fresh:
            yield fresh
        if folder.exists():
            os.replace(folder, work / "old")
        os.replace(work / "new", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError(
            f"{path} is to be written new, but it exists. Remove it, or choose another name."
        )


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


def _flush(path: Path) -> None:
    """Have the system write a file or a folder's entries to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
