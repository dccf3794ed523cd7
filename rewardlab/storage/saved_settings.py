"""Whether the settings in a saved folder are of the types that their class takes."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rewardlab.errors import InputError

_PLAIN = (str, int, float, bool, NoneType)


def check_settings(kind: type, settings: Any, file: str | Path) -> None:
    """Refuse settings that are not of the types of a constructor's arguments.

    Types that JSON cannot hold, such as classes of samplers, are left to the constructor.

    Args:
        kind: the class that is to be made.
        settings: its arguments, as a file holds them.
        file: names the file in the error.

    Raises:
        InputError: naming the first argument that is unknown or of another type.

    Example:
        >>> class Loaded:
        ...     def __init__(self, labels: list[str] | None = None) -> None: ...
        >>> check_settings(Loaded, {"labels": ["zero"]}, "policy.json")
        >>> check_settings(Loaded, {"labels": [0]}, "policy.json")
        Traceback (most recent call last):
        rewardlab.errors.InputError: policy.json: labels should be list[str] | None; got [0]. ...
    """
    if not isinstance(settings, Mapping):
        raise InputError(f"{file} should hold settings; got {str(settings)[:60]}. Is it edited?")
    try:
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    except NameError:  # a type that is imported for type checkers only
        return
    parameters = signature(kind.__init__).parameters  # type: ignore[misc]
    takes_any = any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
    for name, value in settings.items():
        if name not in parameters and not takes_any:
            raise InputError(
                f"{file}: {kind.__name__} takes no {str(name)[:60]!r}. Is it edited, or of another "
                "version?"
            )
        if name in hints and not _fits(value, hints[name]):
            expected = str(hints[name]) if get_args(hints[name]) else hints[name].__name__
            raise InputError(
                f"{file}: {name} should be {expected}; got {str(value)[:60]}. Is it edited?"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value of JSON is of a type, as far as JSON can tell."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        (item,) = get_args(hint)
        return isinstance(value, list) and all(_fits(part, item) for part in value)
    if hint not in _PLAIN:
        return True
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)
