"""Arguments that a config of an earlier version lacks, and whether they are at their defaults.

A run that an earlier version began has a config.yaml without the arguments that came since. It is
the same run where those have their defaults, which is how the earlier version behaved.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from pkgutil import resolve_name
from types import UnionType
from typing import Any

Keys = Sequence[str]
NO_DEFAULT = object()
ABSENT = object()


def is_addition(stored: Any, given: Any, keys: Keys) -> bool:
    """Tell whether a value of a config is, or is in, a new argument that has its default.

    Args:
        stored: an earlier config, which lacks the argument.
        given: the config, in which classes stand as `class_path` and `init_args`.
        keys: of the value, from the top.

    Example:
        >>> stored = {"data": {"class_path": "rewardlab.data.Prompts", "init_args": {}}}
        >>> given = {"data": {**stored["data"], "init_args": {"seed": 0}}}
        >>> is_addition(stored, given, ["data", "init_args", "seed"])
        True
        >>> given["data"]["init_args"]["seed"] = 1
        >>> is_addition(stored, given, ["data", "init_args", "seed"])
        False
    """
    factory: Any = None
    for key in keys:
        if isinstance(given, Mapping) and "class_path" in given:
            factory = _imported(given["class_path"])
        elif factory is not None and key != "init_args":
            if _child(stored, key) is ABSENT:
                return bool(_plain(_default(factory, key)) == _child(given, key))
            factory = _factory(_annotation(factory, key))
        stored = _child(stored, key)
        given = _child(given, key)
    return False


def _child(tree: Any, key: str) -> Any:
    if isinstance(tree, Mapping):
        return tree.get(key, ABSENT)
    if isinstance(tree, Sequence) and key.isdigit() and int(key) < len(tree):
        return tree[int(key)]
    return ABSENT


def _imported(class_path: Any) -> Any:
    try:
        return resolve_name(str(class_path))
    except Exception:  # a foreign module may raise anything when it is imported
        return None


def _default(factory: Callable[..., Any], name: str) -> Any:
    """Return an argument's default, `NO_DEFAULT` where it has none or is not known."""
    for field in fields(factory) if is_dataclass(factory) else ():
        if field.name == name and field.default_factory is not MISSING:
            return field.default_factory()
    try:
        parameter = inspect.signature(factory).parameters.get(name)
    except (TypeError, ValueError):
        return NO_DEFAULT
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return NO_DEFAULT
    return parameter.default


def _annotation(factory: Callable[..., Any], name: str) -> Any:
    """Return the type of an argument, None where it is not known."""
    source: Any = factory
    if isinstance(factory, type):
        source = source.__init__
    try:
        return typing.get_type_hints(source).get(name)
    except Exception:  # annotations of foreign code may name what is not there
        return None


def _factory(annotation: Any) -> Any:
    """Return the dataclass that an annotation names, alone or beside None."""
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        classes = [part for part in typing.get_args(annotation) if is_dataclass(part)]
        return classes[0] if len(classes) == 1 else None
    return annotation if is_dataclass(annotation) else None


def _plain(value: Any) -> Any:
    """Return a default as a config file holds it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(vars(value).get(field.name)) for field in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
