"""Classes that a saved folder names, imported only if they are rewardlab's, or trusted."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError

# Class paths in folders of earlier versions, each with the public path of the same class. Such
# folders stay readable, so a line is never removed.
EARLIER_PATHS = {
    "rewardlab.rewards.classifier.ClassifierReward": "rewardlab.rewards.ClassifierReward",
    "rewardlab.rewards.combine.Standardized": "rewardlab.rewards.Standardized",
    "rewardlab.rewards.combine.Weighted": "rewardlab.rewards.Weighted",
    "rewardlab.rewards.language.LanguageReward": "rewardlab.rewards.LanguageReward",
    "rewardlab.rewards.novelty.Novelty": "rewardlab.rewards.Novelty",
    "rewardlab.rewards.relative.Relative": "rewardlab.rewards.Relative",
}


def public_path(class_path: str) -> str:
    """Return the public path of a class, also for the path by file that earlier versions wrote.

    Example:
        >>> public_path("rewardlab.rewards.novelty.Novelty")
        'rewardlab.rewards.Novelty'
    """
    return EARLIER_PATHS.get(class_path, class_path)


def named_class(folder: str | Path, class_path: str, base: type, *, trust: bool, mend: str) -> Any:
    """Return the class that a folder's config names, a subclass of `base` with `from_pretrained`.

    Args:
        folder: names the folder in the errors.
        class_path: module and name of the class.
        base: class that it has to derive from.
        trust: import classes from outside rewardlab too, which runs their code.
        mend: says in the error how to trust it.

    Raises:
        InputError: if it is not trusted, cannot be imported, or is of another kind.
    """
    name = class_path[:200]
    if not (trust or class_path.startswith("rewardlab.")):
        raise InputError(
            f"{folder} names the class {name}, which is not part of rewardlab; "
            f"loading it would run its code. If you trust it, {mend}."
        )
    try:
        named = _import(public_path(class_path))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder} names the class {name}, which cannot be imported: {str(error)[:200]}. "
            "Was the folder written by another version?"
        ) from error
    if not _loads_as(named, base):
        raise InputError(
            f"{folder} names {name}, which is not a {base.__name__} that loads from a folder."
        )
    return named


def _import(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def _loads_as(named: Any, base: type) -> bool:
    """Tell whether `named` is a subclass of `base` that can be loaded from a folder."""
    is_subclass = isinstance(named, type) and issubclass(named, base)
    return is_subclass and hasattr(named, "from_pretrained")
