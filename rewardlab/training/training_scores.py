"""Scores of a reward while it is trained, which may draw noise and bring a term of the loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import DrawsNoise, FrozenFeatures
from rewardlab.types import Samples


class TrainingScores(NamedTuple):
    """The members' scores [B, M], and the mean over rows of the reward's term of the loss."""

    members: Tensor
    penalty: Tensor | None


def training_scores(reward: Reward, inputs: Samples | Tensor, seeds: Tensor) -> TrainingScores:
    """Return the scores that a loss sees: with a `DrawsNoise` reward's noise, and its own term.

    Args:
        reward: what is trained.
        inputs: samples, or features made by the reward's frozen part.
        seeds: int64 [B], of the noise.
    """
    if not isinstance(reward, DrawsNoise):
        return TrainingScores(members(reward, inputs), None)
    scores, penalties = reward.drawn_members(inputs, seeds)
    return TrainingScores(scores, penalties.mean())


def members(reward: Reward, inputs: Samples | Tensor) -> Tensor:
    """Return members' scores [B, M] of samples, or of features made by the reward's frozen part."""
    if isinstance(inputs, Tensor):
        return with_features(reward).score_features(inputs)
    return reward.members(inputs)


def with_features(reward: Reward) -> FrozenFeatures:
    """Return the reward as one with features: data modules keep features of no other."""
    assert isinstance(reward, FrozenFeatures)
    return reward


def check_drawn(reward: Reward, loop: str) -> None:
    """Refuse a reward that holds one that draws, and does not draw itself.

    Its noise and its term of the loss would be left out, and nobody would be told.

    Raises:
        InputError: naming both.
    """
    if isinstance(reward, DrawsNoise):
        return
    inner = [type(part).__name__ for part in reward.modules() if isinstance(part, DrawsNoise)]
    if inner:
        raise InputError(
            f"{loop} trains a {inner[0]} alone, with its noise; inside a {type(reward).__name__} "
            "it would be trained without. Fit each by itself, and combine them afterwards."
        )
