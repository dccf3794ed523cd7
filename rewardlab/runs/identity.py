"""Whether two configs are the same run's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardlab.runs.additions import is_addition

LOCAL = "local-dir:"
ABSENT = "absent"


def first_difference(stored: Any, given: Any) -> str | None:
    """Return a phrase for the first key in which two configs differ, or None.

    A path equals its absolute form. An argument that the stored config lacks, since an earlier
    version wrote it, counts as its default.

    Example:
        >>> first_difference({"a": {"lr": 0.1}}, {"a": {"lr": 0.2}})
        'a.lr is 0.1 there and 0.2 here'
    """
    old = dict(leaves(stored))
    new = dict(leaves(given))
    removed = [key for key in old if key not in new]
    for key in [*new, *removed]:
        before = old.get(key, ABSENT)
        after = new.get(key, ABSENT)
        is_new = key not in old and is_addition(stored, given, key.split("."))
        if not _same(before, after) and not is_new:
            return f"{key} is {before} there and {after} here"
    return None


def _same(before: Any, after: Any) -> bool:
    if type(before) is not type(after):
        return False
    return bool(before == after or before == _absolute_text(after))


def absolute(tree: Any) -> Any:
    """Return plain data in which strings that name an existing file or folder are absolute paths.

    A bare name without a separator is left alone: it may as well be a model's name.

    Example:
        >>> absolute({"hub": "runwayml/sd", "prompts": ["a cat", 3]})
        {'hub': 'runwayml/sd', 'prompts': ['a cat', 3]}
    """
    if isinstance(tree, Mapping):
        return {str(key): absolute(value) for key, value in tree.items()}
    if isinstance(tree, Path):
        return str(tree.absolute())
    if isinstance(tree, str):
        return _absolute_text(tree) if _names_a_path(tree) else tree
    if isinstance(tree, Sequence):
        return [absolute(item) for item in tree]
    return tree


def without(tree: Any, names: Sequence[str]) -> Any:
    """Return nested data without the entries of these names, at any depth.

    Example:
        >>> without({"a": [{"b": 1, "c": 2}]}, ["b"])
        {'a': [{'c': 2}]}
    """
    if isinstance(tree, Mapping):
        return {key: without(value, names) for key, value in tree.items() if key not in names}
    if isinstance(tree, list):
        return [without(item, names) for item in tree]
    return tree


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of nested data with its dotted key. Empty collections count as values.

    Example:
        >>> list(leaves({"a": [1, {"b": 2}], "c": {}}))
        [('a.0', 1), ('a.1.b', 2), ('c', {})]
    """
    items = _items(tree)
    if not items:
        yield prefix, _plain(tree)
        return
    for key, value in items:
        dotted = f"{prefix}.{key}" if prefix else str(key)
        yield from leaves(value, dotted)


def _items(tree: Any) -> list[tuple[Any, Any]]:
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return list(enumerate(tree))
    return []


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _names_a_path(text: str) -> bool:
    name = text.removeprefix(LOCAL)
    try:
        return os.sep in name and len(name) < 4096 and Path(name).exists()
    except (OSError, ValueError):
        return False


def _absolute_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    scheme = LOCAL if value.startswith(LOCAL) else ""
    return scheme + os.path.abspath(value.removeprefix(scheme))
