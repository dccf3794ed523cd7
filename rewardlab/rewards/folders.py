"""Reward folders: a config beside weights and parts, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks.adapters import Adapter, read_adapter
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.foreign_heads import check_has_head, check_merged, is_foreign
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.storage.class_files import read_json
from rewardlab.storage.class_paths import named_class
from rewardlab.storage.loading import loading
from rewardlab.storage.saved_settings import check_settings

CONFIG = "config.json"
REWARD = "reward.json"  # takes the place of config.json in folders where that is transformers' own
CLASSIFIER = "rewardlab.rewards.ClassifierReward"
LANGUAGE = "rewardlab.rewards.LanguageReward"
HOME = "rewardlab.rewards"
_EXPORTED = (
    "It looks like an export for other libraries, which they load: give the reward that was "
    "exported."
)
TO_TRUST = "call load_reward(path, trust=True), or give --trust"


def load_reward(path: str | Path, *, trust: bool = False) -> Reward:
    """Load the reward that a folder holds, of the class that its config names.

    A folder with a sequence classifier of transformers, such as a published reward model, is a
    reward too, and so is one that OpenRLHF's train_rm or verl's model_merger wrote.

    Args:
        path: a folder that a reward's, or a transformers sequence classifier's, `save_pretrained`
            wrote.
        trust: import classes and functions from outside rewardlab, and accept servers, in the
            folders of its parts too. Loading such a folder runs code that its config names, and
            scoring sends texts to the servers that it names.

    Raises:
        InputError: if the folder is missing, is no reward's, or names a class that is not trusted
            or does not exist.

    Example:
        >>> load_reward("runs/none")
        Traceback (most recent call last):
        rewardlab.errors.InputError: runs/none is not a folder. ...
    """
    config = read_config(path)
    kind = named_class(path, config["class_path"], Reward, trust=trust, mend=TO_TRUST)
    check_settings(
        kind, config.get("init_args", _arguments(kind, config)), _config_file(Path(path))
    )
    return load_as(kind, path, trust=trust)  # type: ignore[no-any-return]


def _arguments(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config says of the arguments of its class, where they stand at its top."""
    return {name: config[name] for name in signature(kind).parameters if name in config}


def load_as(kind: Any, folder: str | Path, *, trust: bool) -> Any:
    """Load a folder as a reward of a class; a class that takes `trust` is told of it.

    What a class from outside rewardlab raises comes out as it is.
    """
    options = {"trust": trust} if issubclass(kind, Saved) and kind.takes_trust else {}
    is_ours = kind.__module__.startswith("rewardlab.")
    with loading(folder) if is_ours else nullcontext():
        return kind.from_pretrained(folder, **options)


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
    file = _config_file(folder)
    adapter = read_adapter(folder)
    if adapter is not None and file.name != REWARD:
        return _adapted_config(adapter)
    if not file.is_file():
        check_merged(folder)
        raise InputError(f"{folder} holds no {CONFIG}, so it is no reward's. {_mend(folder)}")
    config = read_json(file)
    brings_code = "auto_map" in config  # which names the classes of code that stands in the folder
    if "class_path" not in config:
        config = {"class_path": _foreign_class(folder, config)}
    if not isinstance(config["class_path"], str):
        mend = _EXPORTED if brings_code else "Is it a transformers folder of another kind?"
        raise InputError(f"{file} names no class_path, so it is no reward's. {mend}")
    return config


def _mend(folder: Path) -> str:
    """Return what to give in place of a folder without a config."""
    if _config_file(folder / "reward").is_file():
        return f"It is a run's or a stage's folder: give {folder / 'reward'}."
    if (folder / "model.onnx").is_file() or (folder / "reward.py").is_file():
        return _EXPORTED
    return "Give the folder that save_pretrained wrote."


def read_settings(folder: str | Path, *names: str) -> dict[str, Any]:
    """Return settings by their names from a reward folder's config.

    Raises:
        InputError: as `read_config`, or if a setting is missing.
    """
    config = read_config(folder)
    missing = [name for name in names if name not in config]
    if missing:
        raise InputError(
            f"{Path(folder) / CONFIG} lacks {', '.join(missing)}. "
            "Is it edited, or of another class?"
        )
    return {name: config[name] for name in names}


def write_reward(
    folder: str | Path,
    reward: Saved,
    settings: Mapping[str, Any] | None = None,
    parts: Mapping[str, Reward] | None = None,
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a reward that is its settings, its parts and its tensors, whole or not at all.

    Args:
        folder: where it is to stand.
        reward: for its class and for `check_savable`.
        settings: plain data for the config.
        parts: the rewards that it is made of, by the names of their folders.
        tensors: by the names of their safetensors files, and their own.

    Raises:
        InputError: if the reward cannot be saved, before anything is written; or if `folder` holds
            something else.
    """
    reward.check_savable()
    with new_folder(folder) as fresh:
        save_parts(fresh, parts or {})
        for name, content in (tensors or {}).items():
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, fresh / name)
        config = {"class_path": class_path_of(type(reward)), **(settings or {})}
        write_json(fresh / CONFIG, config)


def save_parts(folder: Path, parts: Mapping[str, Reward]) -> None:
    """Write the rewards that a reward is made of into folders of their own.

    Raises:
        InputError: if one cannot be saved.
    """
    check_parts(parts.values())
    for name, part in parts.items():
        part.save_pretrained(folder / name)  # type: ignore[operator]


def check_parts(parts: Iterable[object]) -> None:
    """Refuse parts that cannot be saved, and parts that are made of such.

    Raises:
        InputError: naming the first of them.
    """
    for part in parts:
        if not isinstance(part, Saved):
            raise InputError(
                f"{type(part).__name__} cannot be saved, nor what is made of it. Make both in code."
            )
        part.check_savable()


def class_path_of(kind: type) -> str:
    """Return the path by which a folder names a class: the public one of a reward of rewardlab.

    Example:
        >>> from rewardlab.rewards.novelty import Novelty
        >>> class_path_of(Novelty)
        'rewardlab.rewards.Novelty'
    """
    if kind.__module__.startswith(f"{HOME}."):
        return f"{HOME}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def check_trusted(folder: str | Path, danger: str, *, trust: bool) -> None:
    """Refuse a folder that is not trusted and names what is dangerous.

    Args:
        folder: for the message.
        danger: what the folder names and what would happen.
        trust: the user's word.

    Raises:
        InputError: without trust.
    """
    if not trust:
        raise InputError(f"{folder} names {danger}. If you trust it, {TO_TRUST}.")


def _adapted_config(adapter: Adapter) -> dict[str, Any]:
    """Return the config of a sequence classifier's adapter; refuse another model's."""
    if not adapter.classifies:
        check_has_head(adapter.folder)
        raise InputError(
            f"{adapter.folder} holds an adapter of the kind {adapter.task or 'that is not named'}; "
            "a reward needs one of the kind SEQ_CLS (peft's task_type)."
        )
    return {"class_path": CLASSIFIER}


def _foreign_class(folder: Path, config: dict[str, Any]) -> str | None:
    """Return the class that loads a model whose config names none of rewardlab.

    Raises:
        InputError: if it is not merged yet.
    """
    if _classifies(config):
        return CLASSIFIER
    if is_foreign(folder):
        return LANGUAGE
    check_merged(folder)
    return None


def _config_file(folder: Path) -> Path:
    file = folder / REWARD
    return file if file.is_file() else folder / CONFIG


def _classifies(config: dict[str, Any]) -> bool:
    """Tell whether a transformers config is a sequence classifier's."""
    architectures = config.get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)
