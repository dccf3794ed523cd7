"""A reward as a weighted sum of members' scores and a constant, where it is one exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards import (
    AestheticReward,
    Bottleneck,
    ClassifierReward,
    Corrected,
    Ensemble,
    ImageReward,
    LanguageReward,
    Member,
    Reward,
    Standardized,
    Tolerant,
    VisionReward,
    Weighted,
)

NETWORKS = (AestheticReward, Bottleneck, ClassifierReward, LanguageReward, VisionReward)


class Term(NamedTuple):
    """A network's part in a score.

    Attributes:
        reward: of one network, one of `NETWORKS`.
        weights: float64 [K], what each of its K members counts for; of `Outputs` [O, K].
    """

    reward: Reward
    weights: Tensor


class Combination(NamedTuple):
    """A score as a sum over networks' members, and a constant.

    Attributes:
        terms: one or more.
        offset: the constant.
    """

    terms: list[Term]
    offset: float

    def scaled(self, factor: float, offset: float = 0.0) -> Combination:
        """Return factor · score + offset."""
        terms = [Term(term.reward, factor * term.weights) for term in self.terms]
        return Combination(terms, factor * self.offset + offset)


class Outputs(NamedTuple):
    """O outputs of a reward, each a weighted sum over its networks' members and a constant.

    The first is the score. Where a reward has several members, their scores follow.

    Attributes:
        terms: one or more, with weights [O, K].
        offsets: float64 [O], the constants.
    """

    terms: list[Term]
    offsets: Tensor


def outputs_of(reward: Reward) -> Outputs:
    """Return a reward's score, and its members where it has several, as such sums.

    Raises:
        InputError: as `combination_of`.

    Example:
        >>> from rewardlab.testing import tiny_tower
        >>> outputs = outputs_of(VisionReward(tiny_tower(), heads=2, width=4))
        >>> outputs.terms[0].weights.tolist()
        [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]
    """
    columns = [combination_of(reward)]
    members = members_of(reward)
    if len(members) > 1:
        columns += members
    terms = []
    for reference in columns[0].terms:
        weights = [_weights_on(reference.reward, column) for column in columns]
        terms.append(Term(reference.reward, torch.stack(weights)))
    offsets = torch.tensor([column.offset for column in columns], dtype=torch.float64)
    return Outputs(terms, offsets)


def _weights_on(reward: Reward, column: Combination) -> Tensor:
    """Return the weight of each member of one network in a column, [K]; zeros where it has none."""
    for term in column.terms:
        if term.reward is reward:
            return term.weights
    return torch.zeros(head_count(reward), dtype=torch.float64)


def combination_of(reward: Reward) -> Combination:
    """Return a reward's `forward` as a sum over the members of the networks that it is made of.

    Standardized, Weighted, Ensemble, Member and Corrected are sums of what is inside them, and
    Tolerant is what it wraps.

    Raises:
        InputError: naming the first part that is no such sum.

    Example:
        >>> from rewardlab.testing import tiny_tower
        >>> vision = VisionReward(tiny_tower(), heads=2, width=4)
        >>> combination = combination_of(Standardized(vision, mean=1.0, std=2.0))
        >>> combination.terms[0].weights.tolist(), combination.offset
        ([0.25, 0.25], -0.5)
    """
    if isinstance(reward, Tolerant):
        return combination_of(reward.reward)
    if isinstance(reward, Standardized):
        return _standardized(combination_of(reward.reward), reward)
    if isinstance(reward, Weighted):
        parts = [combination_of(part) for part in reward.rewards]
        return _weighted(parts, reward)
    if isinstance(reward, Member):
        return _member(reward)
    if isinstance(reward, Corrected):
        return _corrected(reward)
    return _mean(members_of(reward))


def members_of(reward: Reward) -> list[Combination]:
    """Return a reward's `members` as such sums, one a column.

    Raises:
        InputError: as `combination_of`.
    """
    if isinstance(reward, Tolerant):
        return members_of(reward.reward)
    if isinstance(reward, Ensemble):
        columns: list[Combination] = []
        for part in reward.rewards:
            columns += members_of(part)
        return columns
    if isinstance(reward, Standardized):
        return [_standardized(member, reward) for member in members_of(reward.reward)]
    if isinstance(reward, Weighted):
        return _weighted_members(reward)
    if isinstance(reward, Corrected):
        return _corrected_members(reward)
    if isinstance(reward, Member):
        return [combination_of(reward)]
    if isinstance(reward, ImageReward):
        raise InputError(
            "An ImageReward is one published checkpoint, whose text half attends to the picture: "
            "not a network with heads, and there is a package that loads it. Give others that "
            "checkpoint, or let `rewardlab export --to flow-factory` write a reward that loads "
            "this folder."
        )
    if not isinstance(reward, NETWORKS):
        raise InputError(
            f"An export is one network, or a weighted sum of networks, and {type(reward).__name__} "
            "is neither. Export the reward inside it (the folder reward/ of a saved one), or let "
            "`rewardlab export --to openrlhf`, or flow-factory for pictures, write a function that "
            "loads the whole."
        )
    count = head_count(reward)
    units = torch.eye(count, dtype=torch.float64)
    return [Combination([Term(reward, unit)], 0.0) for unit in units]


def head_count(reward: Reward) -> int:
    """Return how many members a network's reward has."""
    if isinstance(reward, LanguageReward | Bottleneck):
        return len(reward.head)
    if isinstance(reward, VisionReward):
        return reward.projection.heads
    return 1


def _standardized(inner: Combination, reward: Standardized) -> Combination:
    std = reward.std.double().item()
    return inner.scaled(1 / std, -reward.mean.double().item() / std)


def _weighted(parts: Sequence[Combination], reward: Weighted) -> Combination:
    weights: list[float] = reward.weights.double().tolist()
    scaled = [part.scaled(weight) for part, weight in zip(parts, weights, strict=True)]
    return _sum(scaled)


def _weighted_members(reward: Weighted) -> list[Combination]:
    """Return the columns of a Weighted, which its `members` describes."""
    columns = [members_of(part) for part in reward.rewards]
    widths = [len(column) for column in columns if len(column) > 1]
    if len(widths) > 1:
        columns = [[_mean(column)] for column in columns]
    width = max(map(len, columns))
    members = []
    for index in range(width):
        parts = [column[index if len(column) > 1 else 0] for column in columns]
        members.append(_weighted(parts, reward))
    return members


def _member(reward: Member) -> Combination:
    """Return one member's column.

    Raises:
        InputError: if there are fewer.
    """
    members = members_of(reward.reward)
    if not 0 <= reward.index < len(members):
        raise InputError(f"Member(index={reward.index}) of a reward with {len(members)} members.")
    return members[reward.index]


def _corrected(reward: Corrected) -> Combination:
    correction = _settled(combination_of(reward.correction), reward)
    if reward.reward is None:
        return correction
    return _sum([combination_of(reward.reward), correction])


def _corrected_members(reward: Corrected) -> list[Combination]:
    """Return the columns of a Corrected, which its `members` describes."""
    if reward.reward is None:
        return [_settled(member, reward) for member in members_of(reward.correction)]
    correction = _settled(combination_of(reward.correction), reward)
    return [_sum([member, correction]) for member in members_of(reward.reward)]


def _settled(correction: Combination, reward: Corrected) -> Combination:
    factor = reward.weight * reward.scale.double().item()
    return correction.scaled(factor, -factor * reward.offset.double().item())


def _mean(columns: Sequence[Combination]) -> Combination:
    return _sum([column.scaled(1 / len(columns)) for column in columns])


def _sum(parts: Sequence[Combination]) -> Combination:
    """Return the sum; the terms of one reward become one."""
    weights: dict[int, Tensor] = {}
    rewards: dict[int, Reward] = {}
    for part in parts:
        for term in part.terms:
            key = id(term.reward)
            rewards[key] = term.reward
            weights[key] = weights.get(key, torch.zeros_like(term.weights)) + term.weights
    terms = [Term(reward, weights[key]) for key, reward in rewards.items()]
    return Combination(terms, sum(part.offset for part in parts))
