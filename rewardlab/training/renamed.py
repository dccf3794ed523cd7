"""Earlier names of arguments, which still work in Python, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def accept_earlier_names(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator by which a function takes arguments under earlier names too.

    The function's signature, which configs are checked against, shows the present names alone.

    Args:
        names: the present name of each argument, by its earlier one.

    Raises:
        TypeError: (on use) if an argument is given under both names.

    Example:
        >>> @accept_earlier_names(colour="color")
        ... def paint(color): return color
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", DeprecationWarning)
        ...     paint(colour="red")
        'red'
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
            for earlier, present in names.items():
                if earlier in kwargs:
                    _rename(kwargs, earlier, present, function.__qualname__)
            return function(*args, **kwargs)

        return renamed

    return decorate


def _rename(arguments: dict[str, object], earlier: str, present: str, function: str) -> None:
    """Move an argument to its present name, with a warning."""
    if present in arguments:
        raise TypeError(f"{function} got {earlier!r}, an earlier name of {present!r}, beside it")
    warnings.warn(
        f"The argument {earlier!r} of {function} is called {present!r} now; the earlier name will "
        "be dropped.",
        DeprecationWarning,
        stacklevel=3,
    )
    arguments[present] = arguments.pop(earlier)
