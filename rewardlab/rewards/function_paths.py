"""Functions that folders name by their import paths."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError


def name_of(function: Any) -> str:
    """Return the name by which messages call a function."""
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


def import_path(function: Any) -> str:
    """Return the module and name by which another program imports a function.

    Raises:
        InputError: if there is none.
    """
    module = sys.modules.get(getattr(function, "__module__", ""))
    name = getattr(function, "__qualname__", "")
    is_script = module is not None and module.__name__ == "__main__"
    if is_script or getattr(module, name, None) is not function:
        raise InputError(
            f"A reward of the function {name_of(function)} cannot be saved, since no other program "
            "can import it. Define it with def at the top of a module that can be imported."
        )
    return f"{function.__module__}.{name}"


def imported(folder: str | Path, path: str) -> Any:
    """Return the function that a folder names.

    Raises:
        InputError: if it cannot be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{folder} names the function {path}, which cannot be imported: {error}. "
            "Is its module on the path?"
        ) from error
