"""A reward's folder is tried as soon as it is written: it has to score as the reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks.tokens import PROBES, check_same_tokens
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import CONFIG, class_path_of
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples


def check_saved(reward: Any, loaded: Any, folder: str | Path) -> None:
    """Make sure that a reward, loaded from its folder, scores a probe as the reward does.

    Args:
        reward: which was saved, with a tokenizer.
        loaded: the same from the folder.
        folder: for the message.

    Raises:
        InputError: if tokens or scores differ.
    """
    check_same_tokens(reward.tokenizer, loaded.tokenizer, folder)
    _check_same_scores(reward, loaded, PROBES, folder)


def check_saved_images(reward: Any, loaded: Any, folder: str | Path) -> None:
    """Make sure that a reward of images, loaded from its folder, scores a probe as the reward does.

    Args:
        reward: which was saved.
        loaded: the same from the folder.
        folder: for the message.

    Raises:
        InputError: if scores differ.
    """
    height, width = 40, 56
    picture = torch.arange(3 * height * width).sin().add(1).div(2).view(1, 3, height, width)
    _check_same_scores(reward, loaded, (Samples(["a cat"], picture),), folder)


@contextmanager
def tried_folder(
    folder: str | Path, reward: Reward, settings: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Yield a new folder to write the parts of a reward of images into, whole or not at all.

    Its config is written after them. Then the folder is loaded, and has to score as the reward.

    Args:
        folder: where it is to stand.
        reward: whose class loads the folder.
        settings: plain data for the config, beside the class.

    Raises:
        InputError: if `folder` holds something else, or what was written scores otherwise.
    """
    kind: Any = type(reward)
    with new_folder(folder) as fresh:
        yield fresh
        write_json(fresh / CONFIG, {"class_path": class_path_of(kind), **(settings or {})})
        check_saved_images(reward, kind.from_pretrained(fresh), folder)


def _check_same_scores(
    reward: Any, loaded: Any, probes: tuple[Samples, ...], folder: str | Path
) -> None:
    """Compare the scores of the first probe that the reward takes."""
    for probe in probes:
        expected = _members(reward, probe)
        if expected is not None:
            _check_scores(loaded.members(probe).detach().cpu(), expected, folder)
            return


def _members(reward: Reward, probe: Samples) -> Tensor | None:
    """Return the members' scores, None if the probe does not fit the context or the template."""
    was_training = reward.training
    try:
        with torch.no_grad():
            return reward.eval().members(probe).cpu()
    except InputError:
        return None
    finally:
        reward.train(was_training)


def _check_scores(scores: Tensor, expected: Tensor, folder: str | Path) -> None:
    """Refuse scores that differ by more than half precision's rounding does."""
    scale = expected.abs().max().clamp_min(0.1)
    if not (scores - expected).abs().max() <= 0.1 * scale:
        raise InputError(
            f"The reward that {folder} gives back scores a probe otherwise than the reward that "
            f"was saved: {scores.flatten()[:4].tolist()} in place of "
            f"{expected.flatten()[:4].tolist()}. Is the model changed in memory in a way that its "
            "config does not tell?"
        )
