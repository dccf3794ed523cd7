"""Heads of rewards as OpenRLHF, verl and older versions of TRL write them into model folders.

Their config.json names no sequence classifier, so transformers' classes would leave the head out or
draw a new one. `docs/guide/text_rewards.md` lists the layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError, reason_of
from rewardlab.networks.text_format import Ending
from rewardlab.storage.class_files import read_json

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
SHARDS = "model_world_size_*_rank_*.pt"
NAMES = ("score", "value_head", "v_head.summary")
OPENRLHF = ("value_head_prefix", "normalize_reward")  # what its config.json alone has
SETTINGS = (*OPENRLHF, "mean", "std")
CRITIC = "CriticModel"
CLASSIFIER = "ForSequenceClassification"


class ForeignHead(NamedTuple):
    """A linear head over each token's state; a text's score is that of its very last token.

    Attributes:
        weight: float32 or as it is saved, [1, D].
        bias: [1].
        score_mean: of the scores of typical responses.
        score_std: likewise; 0 where none is known.
        ending: what ends texts in its trainer (see `TextFormat`).
    """

    weight: Tensor
    bias: Tensor
    score_mean: float
    score_std: float
    ending: Ending

    def set_scale(self, reward: Any) -> None:
        """Set a LanguageReward's offset, and mean and deviation of its typical scores."""
        reward.offset.copy_(self.bias)
        reward.score_mean.fill_(self.score_mean)
        reward.score_std.fill_(self.score_std)


def is_foreign(folder: str | Path) -> bool:
    """Tell whether a folder holds a head that `foreign_head` reads; hub ids never do."""
    config = _config_of(Path(folder))
    return config is not None and _head_name(Path(folder), config) is not None


def foreign_head(folder: str | Path) -> ForeignHead | None:
    """Return the head that a reward of OpenRLHF, verl or TRL has, None for any other model.

    Where OpenRLHF's config says `normalize_reward`, its mean and deviation are in the head;
    otherwise they are kept beside it.

    Args:
        folder: of weights in safetensors, beside transformers' config.json.

    Raises:
        InputError: if it is a critic's, has not one number a token, or its deviation is none.
    """
    folder = Path(folder)
    config = _config_of(folder)
    name = None if config is None else _head_name(folder, config)
    if config is None or name is None:
        return None
    if CRITIC in _architectures(config):
        raise InputError(
            f"{folder} holds a critic of OpenRLHF, which values unfinished answers, and no reward. "
            "Give the folder that its train_rm wrote."
        )
    weight = read_weight(folder, f"{name}.weight")
    if weight is None or weight.dim() != 2 or len(weight) != 1:
        shape = None if weight is None else tuple(weight.shape)
        raise InputError(
            f"{folder} has {name}.weight of shape {shape}; a reward's gives one number a token, "
            "(1, D). Is it a token classifier of another kind?"
        )
    bias = read_weight(folder, f"{name}.bias")
    bias = torch.zeros(1) if bias is None else bias.float()
    ending: Ending = "spaced" if _is_openrlhf(config) else "template"
    mean, std = _scale_of(folder, config)
    if config.get("normalize_reward") and std > 0:
        return ForeignHead(weight.float() / std, (bias - mean) / std, 0.0, 1.0, ending)
    return ForeignHead(weight, bias, mean, std, ending)


def forget_head(config: Any) -> None:
    """Take out of a transformers config what it says of a foreign head, which is one no more."""
    for name in SETTINGS:
        if name in vars(config):
            delattr(config, name)


def read_weight(folder: Path, name: str) -> Tensor | None:
    """Return a weight as a folder's safetensors hold it, None where they hold none of that name.

    Raises:
        InputError: if the file cannot be read.
    """
    file = folder / _files_of(folder).get(name, WEIGHTS)
    if not file.is_file():
        return None
    with _opened(file) as weights:
        if name not in weights.keys():  # noqa: SIM118  (it is no dict)
            return None
        weight: Tensor = weights.get_tensor(name)
    return weight


def check_merged(folder: Path) -> None:
    """Refuse the shards of a checkpoint of verl, which are no model's folder yet.

    Raises:
        InputError: naming the command that merges them.
    """
    for candidate in (folder, folder.parent):
        if any(candidate.glob(SHARDS)):
            raise InputError(
                f"{candidate} holds the shards of a checkpoint of verl. Merge them first: python "
                f"-m verl.model_merger merge --backend fsdp --local_dir {candidate} --target_dir "
                "REWARD; then give REWARD."
            )


def check_has_head(folder: Path) -> None:
    """Refuse an adapter of OpenRLHF's train_rm, which lacks the head that it was trained under.

    Raises:
        InputError: if the folder holds such.
    """
    file = folder / CONFIG
    if file.is_file() and _is_openrlhf(read_json(file)):
        raise InputError(
            f"{folder} holds the adapter of a reward of OpenRLHF, which wrote no head beside it: "
            "that was drawn at random in training and is lost. Train without --ds.lora.rank, and "
            "give the folder that train_rm writes then."
        )


def _is_openrlhf(config: Mapping[str, Any]) -> bool:
    named = any(key in config for key in OPENRLHF)
    return named or "RewardModel" in _architectures(config)


def _config_of(folder: Path) -> dict[str, Any] | None:
    """Return a model's config unless it is a classifier of transformers; None without one."""
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    if any(name.endswith(CLASSIFIER) for name in _architectures(config)):
        return None
    return config


def _architectures(config: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in config.get("architectures") or []]


def _head_name(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the name of the head's layer among the weights, None where there is no such."""
    named = [str(config["value_head_prefix"])] if "value_head_prefix" in config else []
    for name in (*named, *NAMES):
        if _has_weight(folder, f"{name}.weight"):
            return name
    return None


def _has_weight(folder: Path, name: str) -> bool:
    """Tell whether a folder's safetensors hold a weight; their headers alone are read."""
    if (folder / INDEX).is_file():
        return name in _files_of(folder)
    if not (folder / WEIGHTS).is_file():
        return False
    with _opened(folder / WEIGHTS) as weights:
        return name in weights.keys()  # noqa: SIM118  (it is no dict)


def _opened(file: Path) -> Any:
    """Return a safetensors file, open to read.

    Raises:
        InputError: if it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} cannot be read: {reason_of(error)}. Is it cut off? Copy it anew."
        ) from error


def _files_of(folder: Path) -> dict[str, str]:
    """Return the names of the files that weights are in, empty where one file holds all."""
    index = folder / INDEX
    if not index.is_file():
        return {}
    files: dict[str, str] = read_json(index).get("weight_map", {})
    return files


def _scale_of(folder: Path, config: Mapping[str, Any]) -> tuple[float, float]:
    """Return mean and deviation of scores that OpenRLHF keeps; (0, 0) where it kept none.

    Raises:
        InputError: if they are no numbers, or the deviation is not positive.
    """
    if "mean" not in config or "std" not in config:
        return 0.0, 0.0
    try:
        scale = torch.tensor([float(config["mean"]), float(config["std"])])
    except (TypeError, ValueError):
        scale = torch.tensor([torch.nan, torch.nan])
    if not (torch.isfinite(scale).all() and scale[1] > 0):
        raise InputError(
            f"{folder / CONFIG} says mean {config['mean']!r} and std {config['std']!r}; the scores "
            "of a reward have a finite mean and a positive deviation. Take both out, or put right "
            "what the training wrote."
        )
    return float(config["mean"]), float(config["std"])
