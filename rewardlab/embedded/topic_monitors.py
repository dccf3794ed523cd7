"""Monitors of the help topics' world: rewards that nothing is optimized against, for `Readings`."""

from __future__ import annotations

import torch

from rewardlab.embedded.topics import base_policy, member, member_reward, prompts
from rewardlab.evaluation.prompts import in_turn
from rewardlab.rewards import Novelty, Reward
from rewardlab.rewards.novelty import Outliers
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples


def held_out_member(
    seed: int = 7, pairs: int = 1000, pairs_seed: int = 1000, train_steps: int = 700
) -> Reward:
    """Return a member that was fitted on pairs which no other member sees.

    Args:
        seed: seed of the head and of the pairs' order.
        pairs: number of pairs.
        pairs_seed: seed of the pairs' responses.
        train_steps: training steps of the base policy.
    """
    return member_reward(seed, pairs=pairs, pairs_seed=pairs_seed, train_steps=train_steps)


def familiarity(references: int = 400, seed: int = 0, train_steps: int = 700) -> Reward:
    """Return minus the distance from what the base policy says, in deviations: `Novelty`.

    Args:
        references: responses of the base policy, one a prompt.
        seed: seed of the responses.
        train_steps: training steps of the base policy.
    """
    outputs = base_outputs(references, seed, train_steps)
    return Novelty(member(frozen=True, train_steps=train_steps).eval(), outputs, seed=seed)


def outliers(references: int = 400, seed: int = 0, train_steps: int = 700) -> Reward:
    """Return minus 1 for an outlier among the base policy's responses, else 0: its mean is -MOP.

    Args:
        references: responses of the base policy, one a prompt; half of them calibrate.
        seed: seed of the responses.
        train_steps: training steps of the base policy.
    """
    outputs = base_outputs(references, seed, train_steps)
    return Outliers(member(frozen=True, train_steps=train_steps).eval(), outputs, seed=seed)


def base_outputs(count: int, seed: int = 0, train_steps: int = 700) -> Samples:
    """Return responses of the base policy to training prompts in turn."""
    seeds = row_seeds(derive(seed, "topic references"), count)
    policy = base_policy(train_steps).eval()
    with torch.no_grad():
        return policy.generate(in_turn(prompts("train"), count), seeds=seeds)
