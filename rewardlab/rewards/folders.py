"""Reward folders: a config beside weights, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.storage.class_paths import named_class

CONFIG = "config.json"
REWARD = "reward.json"  # takes the place of config.json in folders where that is transformers' own
CLASSIFIER = "rewardlab.rewards.ClassifierReward"


def load_reward(path: str | Path, *, trust: bool = False) -> Reward:
    """Load the reward that a folder holds, whatever its class: `class_path` in its config says
    which.

    A folder with a sequence classifier of transformers, such as a published reward model, is a
    reward too.

    Args:
        path: a folder that a reward's, or a transformers sequence classifier's, `save_pretrained`
            wrote.
        trust: import classes from outside rewardlab too. Loading such a folder runs code that its
            config names.

    Raises:
        InputError: if the folder is missing, is no reward's, or names a class that is not trusted
            or does not exist.

    Example:
        >>> load_reward("runs/none")
        Traceback (most recent call last):
        rewardlab.errors.InputError: runs/none is not a folder. ...
    """
    class_path = read_config(path)["class_path"]
    mend = "call load_reward(path, trust=True), or give --trust"
    return named_class(path, class_path, Reward, trust=trust, mend=mend).from_pretrained(path)  # type: ignore[no-any-return]


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read a reward folder's reward.json or config.json, a mapping with at least `class_path`.

    The config of a transformers sequence classifier gets the class that loads such.

    Raises:
        InputError: if the folder or the file is missing, or the file is not such a mapping.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder. Give the folder that a reward's save_pretrained wrote."
        )
    file = folder / (REWARD if (folder / REWARD).is_file() else CONFIG)
    if not file.is_file():
        raise InputError(
            f"{folder} holds no {CONFIG}, so it is no reward's. Give the folder that save_pretrained wrote."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{file} is not readable JSON: {error}. Is the file cut off or edited?"
        ) from error
    if isinstance(config, dict) and "class_path" not in config and _classifies(config):
        return {"class_path": CLASSIFIER}
    if not isinstance(config, dict) or not isinstance(config.get("class_path"), str):
        raise InputError(
            f"{file} names no class_path, so it is no reward's. Is it a transformers folder of another kind?"
        )
    return config


def _classifies(config: dict[str, Any]) -> bool:
    """Tell whether a transformers config is a sequence classifier's."""
    return any(
        str(name).endswith("ForSequenceClassification")
        for name in config.get("architectures") or []
    )


def save_parts(folder: Path, parts: Mapping[str, Reward]) -> None:
    """Write the rewards that a reward is made of into folders of their own.

    Raises:
        InputError: if one cannot be saved.
    """
    for name, part in parts.items():
        if not isinstance(part, Saved):
            raise InputError(
                f"{type(part).__name__} cannot be saved, nor what is made of it. Make both in code."
            )
        part.save_pretrained(folder / name)
