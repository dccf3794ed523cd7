"""Hardening inside the run: what rounds give a correction that learns while the policy trains."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.mining import candidates, check_candidates
from rewardlab.rewards import Reward
from rewardlab.rewards.combine import Ensemble
from rewardlab.rewards.corrected import Corrected
from rewardlab.rewards.scoring import device_of_reward
from rewardlab.rounds.stages import PostTrain
from rewardlab.rounds.state import State, keep_samples, kept_scores
from rewardlab.rounds.tether import in_deviations
from rewardlab.runs.layout import ANCHOR_SCORES, ANCHORS
from rewardlab.runs.stage import Stage
from rewardlab.training.online import Online
from rewardlab.types import Samples


@dataclass
class OnlineHardening:
    """A correction of the reward that is trained while the policy climbs both.

    The first policy draws `best_of` responses of each prompt; the best by the reward is the anchor,
    which the correction learns to tell from what the policy draws (`rewardlab.training.Online`). A
    policy that climbs the sum is so held to the best of n of the first policy, by a KL that is
    learned from samples. The reward is in its deviations within a prompt.

    Args:
        correction: the reward that is trained, such as a LanguageReward on the policy's backbone.
        weight: deviations of the reward that one unit of the correction, a nat, is worth.
        best_of: responses of the first policy to each prompt; 2 at least.
        online: how it is trained; as `Online` has it by default. Anchors and references are its
            own, if it was given some.
    """

    correction: Reward
    weight: float = 2.0
    best_of: int = 8
    online: Online | None = None

    def __post_init__(self) -> None:
        check_candidates(self.best_of)


class Hardened(NamedTuple):
    """What a policy is trained on, and how.

    Attributes:
        reward: what it climbs.
        stage: the record of what made the reward.
        post_train: the training, with the callback that trains the correction.
    """

    reward: Reward
    stage: Stage
    post_train: PostTrain


def hardened_online(
    state: State,
    hardening: OnlineHardening,
    members: Sequence[Reward],
    stage: Stage,
    post_train: PostTrain,
    settings: dict[str, Any],
) -> Hardened:
    """Draw the anchors, and return the corrected reward with its training.

    Args:
        state: whose policy draws.
        hardening: its settings.
        members: rewards, each of which counts in its own deviations within a prompt.
        stage: the record of what made them.
        post_train: the training without the correction.
        settings: what describes `hardening` for the stage's hash.
    """
    pool, drawn = _draw_pool(state, hardening.best_of)
    columns = []
    for number, member in enumerate(members):
        kept = state.stage(f"{ANCHOR_SCORES}-{number}", drawn, stage)
        columns.append(kept_scores(state, kept, member, pool))
    scores = _mean_in_deviations(columns, hardening.best_of)
    online = deepcopy(hardening.online or Online())
    online.begin(_best(pool, scores, hardening.best_of), pool)
    reward = _mean_reward(members, pool.prompts, columns)
    device = device_of_reward(members[0])
    corrected = Corrected(reward.eval(), hardening.correction, hardening.weight).to(device)
    return Hardened(
        corrected,
        Stage("online", (stage, drawn), settings),
        replace(post_train, callbacks=[*post_train.callbacks, online]),
    )


def _draw_pool(state: State, count: int) -> tuple[Samples, Stage]:
    """Return `count` responses of the policy to each prompt, kept as a stage, with its record."""
    seed = state.seed_of(ANCHORS)
    prompts = list(state.prompts)
    drawn = state.stage(ANCHORS, state.policy_stage, seed=seed, k=count, prompts=prompts)
    pool = keep_samples(state, drawn, lambda: candidates(state.policy, prompts, count, seed))
    return pool, drawn


def _mean_reward(
    members: Sequence[Reward], prompts: Sequence[Prompt], columns: Sequence[Tensor]
) -> Reward:
    """Return the mean of members, each of which counts in its deviations within a prompt."""
    scaled: list[Reward] = []
    for member, column in zip(members, columns, strict=True):
        scaled.append(in_deviations(member, prompts, column))
    return scaled[0] if len(scaled) == 1 else Ensemble(scaled)


def in_the_loop(
    reward: Reward, post_train: PostTrain, targets: Samples, negatives: Samples
) -> tuple[Reward, PostTrain]:
    """Let GAN-RM's reward be trained on while the policy climbs it, if a callback is to do that.

    It is the discriminator in the loop of Adv-GRPO, arXiv 2511.20256, that begins where the fit
    ended. Its deviation on the negatives stays, so that advantages keep their unit.

    Args:
        reward: as it was fitted.
        post_train: the training, perhaps with an `Online` among its callbacks.
        targets: what is wanted.
        negatives: outputs of the policy before this round.

    Returns:
        What the policy climbs, and the training with the targets in its callback.
    """
    if not any(isinstance(callback, Online) for callback in post_train.callbacks):
        return reward, post_train
    callbacks = deepcopy(post_train.callbacks)
    for callback in callbacks:
        if isinstance(callback, Online):
            callback.begin(targets, negatives)
    return Corrected(None, reward, keep_deviation=True), replace(post_train, callbacks=callbacks)


def _best(pool: Samples, scores: Tensor, count: int) -> Samples:
    """Return the best of each prompt's `count` responses."""
    groups = scores.view(-1, count)
    return pool[torch.arange(len(groups)) * count + groups.argmax(1)]


def _mean_in_deviations(columns: Sequence[Tensor], count: int) -> Tensor:
    """Return the mean over members of scores [B], each in its deviations within a prompt."""
    total = torch.zeros(len(columns[0]))
    for column in columns:
        groups = column.view(-1, count)
        centered = groups - groups.mean(1, keepdim=True)
        total += (centered / centered.square().mean().sqrt()).flatten()
    return total / len(columns)
