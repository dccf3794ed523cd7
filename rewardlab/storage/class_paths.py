"""Classes that a saved folder names: imported only if they are rewardlab's, or trusted."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError

# Paths that folders of earlier versions name, and the public path of the same class. Folders are
# read for ever, so a line is never taken out.
EARLIER_PATHS = {
    "rewardlab.rewards.classifier.ClassifierReward": "rewardlab.rewards.ClassifierReward",
    "rewardlab.rewards.combine.Standardized": "rewardlab.rewards.Standardized",
    "rewardlab.rewards.combine.Weighted": "rewardlab.rewards.Weighted",
    "rewardlab.rewards.language.LanguageReward": "rewardlab.rewards.LanguageReward",
    "rewardlab.rewards.novelty.Novelty": "rewardlab.rewards.Novelty",
    "rewardlab.rewards.relative.Relative": "rewardlab.rewards.Relative",
}


def public_path(class_path: str) -> str:
    """Return the public path of a class that a folder names by its file, as earlier versions did.

    Example:
        >>> public_path("rewardlab.rewards.novelty.Novelty")
        'rewardlab.rewards.Novelty'
    """
    return EARLIER_PATHS.get(class_path, class_path)


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
    module, _, name = public_path(class_path).rpartition(".")
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
