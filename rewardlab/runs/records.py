"""The JSON files that a run keeps beside its stages: read, merged and written whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardlab.runs.damage import UNREADABLE, read_object, set_aside
from rewardlab.runs.layout import TIMING_FILE, name_of_title
from rewardlab.storage.atomic import write_atomically

log = logging.getLogger("rewardlab")


def read_record(path: Path) -> dict[str, Any]:
    """Return the object of a run's JSON file; an empty one where there is no file.

    A damaged file is set aside with a warning, so that it is begun anew.
    """
    if not path.exists():
        return {}
    try:
        content = read_object(path)
        if path.name == TIMING_FILE:
            _check_seconds(content)
    except UNREADABLE as error:
        aside = set_aside(path)
        log.warning(
            "%s is damaged (%s): it is begun anew, and the damaged one is kept as %s.",
            path,
            _reason(error),
            aside.name,
        )
        return {}
    return content


def merge_record(path: Path, more: Mapping[str, Any]) -> dict[str, Any]:
    """Merge facts into a run's JSON file, nested mappings by key, and return all of them."""
    content = _merged(read_record(path), more)
    text = json.dumps(content, indent=1, sort_keys=True, default=_plain_data, ensure_ascii=False)
    write_atomically(path, text + "\n")
    merged: dict[str, Any] = json.loads(text)
    return merged


def _check_seconds(timing: Mapping[str, Any]) -> None:
    """Refuse a timing.json in which a stage's seconds are no number.

    Raises:
        ValueError: naming the stage.
    """
    for title, entry in timing.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"{title} holds no object")
        seconds = entry.get("seconds", 0.0)
        if name_of_title(title) and not isinstance(seconds, int | float):
            raise ValueError(f"the seconds of {title} are {seconds!r}")


def _reason(error: BaseException) -> str:
    """Return what a reading error says, on one line."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON"
    if isinstance(error, OSError):
        return str(error.strerror)
    return " ".join(str(error).split())


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    merged = dict(old)
    for key, value in new.items():
        merged[str(key)] = _merged(old.get(str(key)), value)
    return merged


def _plain_data(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) else dict(value)
