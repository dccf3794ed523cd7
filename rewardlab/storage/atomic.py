"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old contents or the new, never a part.

    Text is written as UTF-8 with its own newlines. An existing file is replaced.

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
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a file that was written beside `path` into its place, after it is on the disk.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "half").write_text("whole")
        >>> put_in_place(folder / "half", folder / "done")
        >>> (folder / "done").read_text()
        'whole'
    """
    _flush(partial)
    os.replace(partial, path)
    _flush(path.parent)


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file to, which becomes `path` when the block ends well.

    Raises:
        InputError: if `path` exists.

    Example:
        >>> target = getfixture("tmp_path") / "scores.csv"
        >>> with new_file(target) as partial:
        ...     _ = partial.write_text("row,score")
        >>> target.read_text()
        'row,score'
    """
    path = Path(path)
    _refuse_existing(path)
    partial = _beside(path)
    try:
        yield partial
        _refuse_existing(path)
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON in UTF-8, with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder to fill, which becomes `path` when the block ends well.

    It vanishes when the block fails. A process killed inside the block leaves a hidden
    `.<name>.<digits>.partial` beside `path`, and no `path`.

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
    with _partial_folder(path) as partial:
        yield partial
        _flush_tree(partial)
        _refuse_existing(path)
        os.rename(partial, path)
    _flush(path.parent)


@contextmanager
def new_folder(folder: str | Path, marker: str = "config.json") -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of `folder` when the block ends well.

    It works as `atomic_folder` does, but replaces an earlier result of the same kind.

    Args:
        folder: path of the result.
        marker: name of a file that an earlier result has. Only a folder with it, or an empty one,
            is replaced.

    Raises:
        InputError: if `folder` exists and is something else.

    Example:
        >>> parent = getfixture("tmp_path")
        >>> with new_folder(parent / "reward") as folder:
        ...     write_json(folder / "config.json", {})
        >>> os.listdir(parent)
        ['reward']
    """
    path = Path(folder)
    _refuse_other(path, marker)
    with _partial_folder(path) as partial:
        fresh = partial / "new"
        fresh.mkdir()
        yield fresh
        _flush_tree(fresh)
        if path.exists():
            os.replace(path, partial / "earlier")
        os.replace(fresh, path)
    _flush(path.parent)


@contextmanager
def _partial_folder(path: Path) -> Iterator[Path]:
    """Make a hidden folder beside `path`, and remove it at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError(
            f"{path} is to be written new, but it exists. Remove it, or choose another name."
        )


def _refuse_other(path: Path, marker: str) -> None:
    """Refuse a path that is neither an earlier result, with `marker` in it, nor an empty folder."""
    if not path.exists() or (path / marker).is_file():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise InputError(
            f"{path} stands already and holds no {marker}, so it is not replaced. "
            "Give another folder."
        )


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


def _flush_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    """Have the system write a file or a folder's entries to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
