"""Reward folders: a config beside weights, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewardlab.class_paths import named_class
from rewardlab.errors import InputError
from rewardlab.provenance import atomic_folder
from rewardlab.rewards.base import Reward

CONFIG = "config.json"
REWARD = "reward.json"  # takes the place of config.json in folders where that is transformers' own
CLASSIFIER = "rewardlab.rewards.classifier.ClassifierReward"


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


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON in UTF-8, with a last newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_parts(folder: Path, parts: Mapping[str, Reward]) -> None:
    """Write the rewards that a reward is made of into folders of their own.

    Raises:
        InputError: if one cannot be saved.
    """
    for name, part in parts.items():
        if not hasattr(part, "save_pretrained"):
            raise InputError(
                f"{type(part).__name__} cannot be saved, nor what is made of it. Make both in code."
            )
        part.save_pretrained(folder / name)


@contextmanager
def new_folder(folder: str | Path, marker: str = CONFIG) -> Iterator[Path]:
    """Give an empty folder to write into, which takes the place of `folder` once the block has
    ended without an error.

    Like `provenance.atomic_folder`, but an earlier result of the same kind is replaced.

    Args:
        folder: where the result is to stand.
        marker: a file that an earlier result has; only a folder with it, or an empty one, is
            replaced.

    Raises:
        InputError: if `folder` stands and is something else.

    Example:
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with new_folder(f"{place}/reward") as folder:
        ...         write_json(folder / "config.json", {})
        ...     os.listdir(place)
        ['reward']
    """
    folder = Path(folder)
    if (
        folder.exists()
        and not (folder / marker).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(
            f"{folder} stands already and holds no {marker}, so it is not replaced. Give another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with atomic_folder(work / "new") as fresh:
            yield fresh
        if folder.exists():
            os.replace(folder, work / "old")
        os.replace(work / "new", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
