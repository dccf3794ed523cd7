"""Damaged files and stages of a run: found by their checksums, and set aside, never used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewardlab.runs.layout import CHECKSUMS_FILE

# What reading a file that is not what it should be raises.
UNREADABLE = (OSError, ValueError, RecursionError)


def write_checksums(folder: Path) -> None:
    """Write the sha256 of each file of a stage into its checksums.json.

    Example:
        >>> stage = getfixture("tmp_path")
        >>> _ = (stage / "figures.json").write_text("{}")
        >>> write_checksums(stage)
        >>> find_damage(stage) is None
        True
        >>> _ = (stage / "figures.json").write_text('{"auc": 1}')
        >>> find_damage(stage)
        'figures.json is not as it was written'
    """
    checksums = {}
    for path in _files(folder):
        checksums[path.relative_to(folder).as_posix()] = _sha256(path)
    text = json.dumps(checksums, indent=1, sort_keys=True)
    (folder / CHECKSUMS_FILE).write_text(text + "\n", encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """Return a phrase for what is wrong with a stage's folder, or None.

    Stages of versions that wrote no checksums are accepted if they hold files, and all that is
    JSON or safetensors can be read.
    """
    if not folder.is_dir():
        return "it is a file"
    if not (folder / CHECKSUMS_FILE).exists():
        return _unreadable_file(folder)
    try:
        checksums = read_object(folder / CHECKSUMS_FILE)
    except UNREADABLE:
        return f"{CHECKSUMS_FILE} cannot be read"
    for name, checksum in checksums.items():
        phrase = _difference(folder / name, checksum)
        if phrase:
            return f"{name} {phrase}"
    return None


def read_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        OSError, ValueError or RecursionError: if it cannot be read, or holds something else.
    """
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    if "\\ud" in text.lower():  # half a surrogate pair could not be written again
        json.dumps(content, ensure_ascii=False).encode()
    if not isinstance(content, dict):
        raise ValueError(f"holds {str(content)[:40]!r}, no object")
    return content


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to a free name that ends with .damaged, and return it.

    Example:
        >>> file = getfixture("tmp_path") / "run.json"
        >>> for _ in range(2):
        ...     _ = file.write_text("{")
        ...     print(set_aside(file).name)
        run.json.damaged
        run.json.2.damaged
    """
    aside = path.with_name(f"{path.name}.damaged")
    number = 2
    while aside.exists():
        aside = path.with_name(f"{path.name}.{number}.damaged")
        number += 1
    os.rename(path, aside)
    return aside


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a stage, hidden ones and the checksums themselves aside."""
    for path in sorted(folder.rglob("*")):
        is_hidden = path.name.startswith(".")
        if path.is_file() and not is_hidden and path != folder / CHECKSUMS_FILE:
            yield path


def _difference(path: Path, checksum: Any) -> str | None:
    """Return a phrase for how a file differs from the one that was written, or None."""
    if not path.is_file():
        return "is missing"
    try:
        found = _sha256(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == checksum else "is not as it was written"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable_file(folder: Path) -> str | None:
    """Return a phrase for the first file of an older stage that cannot be read, or None."""
    is_empty = True
    for path in _files(folder):
        is_empty = False
        if not _can_be_read(path):
            return f"{path.relative_to(folder).as_posix()} cannot be read"
    return "it is empty" if is_empty else None


def _can_be_read(path: Path) -> bool:
    """Tell whether a file that is JSON or safetensors can be read; of others nothing is known."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return True
    except (*UNREADABLE, SafetensorError):
        return False
    return True
