"""Lazy names: a package hands on names of its modules, each imported when it is first used."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], earlier: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`, which import a module at its first use.

    Args:
        package: the package's name, its `__name__`.
        homes: maps each public name to the full name of the module that defines it.
        earlier: maps names of earlier versions to present ones; a use warns.

    Example:
        >>> get, names = lazy_names("shapes", {"pi": "math", "Path": "pathlib"})
        >>> round(get("pi"), 2), names()
        (3.14, ['Path', 'pi'])
    """
    renamed = earlier or {}

    def get(name: str) -> Any:
        if name in renamed:
            present = renamed[name]
            warnings.warn(
                f"{package}.{name} is called {package}.{present} since rewardlab 0.2; the old name "
                "goes with 0.4.",
                DeprecationWarning,
                stacklevel=2,
            )
            return get(present)
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def names() -> list[str]:
        imported = vars(sys.modules[package]) if package in sys.modules else {}
        return sorted({*homes, *imported})

    return get, names
