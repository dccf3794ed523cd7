"""Classes that a saved folder names: imported only if they are rewardlab's, or trusted."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError


def named_class(folder: str | Path, class_path: str, base: type, *, trust: bool, mend: str) -> Any:
    """Return the class that a folder's config names, of kind `base`, with a `from_pretrained`.

    Args:
        folder: what named it, for the errors.
        class_path: module and name.
        base: what it has to be a subclass of.
        trust: import classes from outside rewardlab too, which runs their code.
        mend: how to say that one trusts it.

    Raises:
        InputError: if it is not trusted, cannot be imported, or is of another kind.
    """
    if not (trust or class_path.startswith("rewardlab.")):
        raise InputError(
            f"{folder} names the class {class_path}, which is not part of rewardlab; loading it would run its code. If you "
            f"trust it, {mend}."
        )
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{folder} names the class {class_path}, which cannot be imported: {error}. "
            "Was the folder written by another version?"
        ) from error
    if not (
        isinstance(found, type) and issubclass(found, base) and hasattr(found, "from_pretrained")
    ):
        raise InputError(
            f"{folder} names {class_path}, which is not a {base.__name__} that loads from a folder."
        )
    return found
