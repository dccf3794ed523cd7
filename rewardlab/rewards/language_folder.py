"""The folder of a LanguageReward: a sequence classifier of transformers, and reward.json."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewardlab.errors import InputError, reason_of
from rewardlab.networks import lora
from rewardlab.networks.loading import is_name
from rewardlab.rewards import backbones
from rewardlab.rewards.folders import REWARD
from rewardlab.version import __version__

if TYPE_CHECKING:
    from rewardlab.rewards.language import LanguageReward

_log = logging.getLogger("rewardlab")

CLASS_PATH = "rewardlab.rewards.LanguageReward"


def write(folder: str | Path, reward: LanguageReward) -> None:
    """Write a reward: its adapter merged, the scale of its features in the heads.

    Raises:
        InputError: if `folder` holds something else.
    """
    weight = reward.head / reward.std
    offset = reward.offset - reward.head @ (reward.mean / reward.std)
    network = backbones.as_classifier(lora.merged(reward.backbone), weight, reward.pad)
    config = {
        "class_path": CLASS_PATH,
        "init_args": reward.options,
        "meaning": reward.meaning,
        "offset": offset.tolist(),
        "score_mean": reward.score_mean.item(),
        "score_std": reward.score_std.item(),
        "rewardlab": __version__,
    }
    backbones.write_classifier(folder, network, reward, config)


def is_own(model: Any) -> bool:
    """Tell whether a model is named by a folder that a reward was written into."""
    return is_name(model) and (Path(model) / REWARD).is_file()


def kept_chat(model: Any, chat: Any, pooling: str) -> Any:
    """Return how texts are formatted: as asked for, else as an own folder was saved.

    A folder that was saved with another pooling is told of, since its heads are of those states.

    Args:
        model: what the reward is made of.
        chat: what was asked for; None for the model's own.
        pooling: what was asked for.
    """
    if not is_own(model):
        return chat
    config = json.loads((Path(model) / REWARD).read_text(encoding="utf-8"))
    saved = config.get("init_args", {})
    if saved.get("pooling", pooling) != pooling:
        _log.warning(
            "%s was saved with pooling=%r, and LanguageReward is made of it with %r: its heads "
            "are of other states. Give the same, or load it whole by load_reward.",
            model,
            saved["pooling"],
            pooling,
        )
    return saved.get("chat") if chat is None else chat


def _restore(reward: LanguageReward, config: dict[str, Any]) -> None:
    """Give a reward the constants that `write` wrote."""
    reward.offset.copy_(torch.tensor(config["offset"]))
    reward.score_mean.fill_(config["score_mean"])
    reward.score_std.fill_(config["score_std"])
    reward.meaning = config["meaning"]


def read(folder: str | Path, kind: type[LanguageReward]) -> LanguageReward:
    """Load what `write` wrote, or any sequence classifier with a `score` head, in eval mode.

    A reward.json that somebody wrote beside such a classifier may name class_path and init_args
    alone, such as {"chat": false}.

    Raises:
        InputError: if files are missing, broken, or not of one model.
    """
    file = Path(folder) / REWARD
    if not file.is_file():
        return kind(folder).eval()
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        reward = kind(folder, **config["init_args"])
        if "offset" in config:
            _restore(reward, config)
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{file} is not what save_pretrained wrote: {reason_of(error)}. Is it edited or cut "
            "off?"
        ) from error
    return reward.eval()
