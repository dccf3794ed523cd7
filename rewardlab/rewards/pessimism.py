"""One cautious score from an ensemble's members, and members averaged into one."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.rewards.abilities import Calibrated
from rewardlab.rewards.base import Reward
from rewardlab.types import Samples

Kind = Literal["mean", "minimum", "mean_minus_variance", "mean_minus_std"]


class Pessimistic(Reward):
    """One score from the members of a reward: high only where they agree that it is.

    Members have to be on one scale, without the offset that each prompt may have in each:
    `Pessimistic(Relative(reward, …))`. The result has one member, so whatever ranks by it, ranks by
    this score.

    Args:
        reward: with two or more members.
        kind: "mean"; "minimum" (worst case, WCO); "mean_minus_variance" (UWO), both of Coste et
            al., arXiv 2310.02743; or "mean_minus_std" (Adv-RM's baseline). Variance and deviation
            are the unbiased ones, over M - 1.
        weight: what variance or deviation is multiplied with. For the variance Coste et al. took
            0.1 with PPO, 0.5 for best-of-n. The other kinds take none.

    Raises:
        InputError: if the weight is missing or not needed, or (on use) there is one member only.

    Example:
        >>> from rewardlab.rewards import Ensemble
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> both = Ensemble([Length(), Repetition(n=1)])
        >>> [Pessimistic(both, kind, weight)(Samples([""], ["of of"])).item() for kind, weight in
        ...     (("minimum", None), ("mean_minus_variance", 0.1))]
        [-0.5, 0.4375]
    """

    def __init__(self, reward: Reward, kind: Kind = "minimum", weight: float | None = None) -> None:
        super().__init__()
        if (weight is not None) != kind.startswith("mean_minus"):
            raise InputError(
                f"Pessimistic takes a weight for mean_minus_variance and mean_minus_std, and only there; got kind={kind!r} "
                f"and weight={weight}."
            )
        self.reward = reward
        self.kind = kind
        self.weight = weight

    def forward(self, samples: Samples) -> Tensor:
        """Return the cautious score, float32 [B].

        Raises:
            InputError: if the reward has one member.
        """
        members = self.reward.members(samples)
        if self.kind == "mean":
            return members.mean(1)
        if members.shape[1] < 2:
            raise InputError(
                f"Pessimistic compares two or more members; {type(self.reward).__name__} has one. Give an Ensemble, or a "
                "reward with heads=2 or more."
            )
        if self.kind == "minimum":
            return members.amin(1)
        spread = members.var(1) if self.kind == "mean_minus_variance" else members.std(1)
        return members.mean(1) - self.weight * spread


class Member(Reward):
    """One member of an ensemble as a reward of its own: a target or a witness among heads that
    share a backbone.

    Args:
        reward: whose column is taken.
        index: which, from 0.

    Raises:
        InputError: on use, if there are fewer members.

    Example:
        >>> from rewardlab.rewards import Ensemble
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> Member(Ensemble([Length(), Repetition()]), 1)(Samples([""], ["of of of of of"])).item()
        -0.75
    """

    def __init__(self, reward: Reward, index: int) -> None:
        super().__init__()
        self.reward = reward
        self.index = index

    def forward(self, samples: Samples) -> Tensor:
        members = self.reward.members(samples)
        if not 0 <= self.index < members.shape[1]:
            raise InputError(
                f"Member(index={self.index}) of a {type(self.reward).__name__} with {members.shape[1]} members."
            )
        return members[:, self.index]


def fork(reward: Reward, count: int) -> list[Reward]:
    """Return copies that share frozen weights and remember their common start, to be trained apart
    and then `averaged`.

    The start is in their attribute `initialization`, which lives as long as the object and is not
    saved.

    Example:
        >>> from rewardlab import VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> one, other = fork(VisionReward(tiny_tower(), width=8), 2)
        >>> one.initialization == other.initialization
        True
    """
    copies = [_copy(reward) for _ in range(count)]
    for copy in copies:
        copy.initialization = fingerprint(reward)
    return copies


@torch.no_grad()
def averaged(rewards: list[Reward], forked: bool = False) -> Reward:
    """Return one reward whose weights are the mean of several's: WARM, arXiv 2401.12187.

    Averaging means something for members that were trained apart from one start, and nothing for
    members whose heads were drawn separately. What can be checked is: classes, names and shapes of
    all tensors; that weights which are not trained are equal; and the common start, of copies that
    `fork` made. Members that come from files carry no start.

    The saved mean and deviation of scores (`score_mean`, `score_std`) are unset: they have to be
    measured anew.

    Args:
        rewards: two or more.
        forked: your word that members without a record of it did start from the same weights, heads
            included.

    Raises:
        InputError: if a check fails.

    Example:
        >>> from rewardlab import VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> reward = VisionReward(tiny_tower(), width=8)
        >>> samples = Samples([""], torch.rand(1, 3, 16, 16))
        >>> averaged(fork(reward, 3))(samples).equal(reward(samples))
        True
    """
    states = [reward.state_dict() for reward in rewards]
    _check_same_kind(rewards, states)
    _check_same_start(rewards, forked)
    apart = {
        name
        for name in states[0]
        if any(not torch.equal(states[0][name], state[name]) for state in states[1:])
    }
    fixed = sorted(
        name
        for name, weight in rewards[0].named_parameters()
        if not weight.requires_grad and name in apart
    )
    if fixed:
        raise InputError(
            f"The rewards differ in weights that are not trained, such as {fixed[0]}: they stand on other models."
        )
    result = _copy(rewards[0])
    means = {
        name: torch.stack([state[name].double() for state in states]).mean(0) for name in apart
    }
    result.load_state_dict(
        {name: mean.to(states[0][name].dtype) for name, mean in means.items()}, strict=False
    )
    for module in result.modules():
        if apart and isinstance(module, Calibrated):
            module.score_mean.zero_()  # type: ignore[operator, union-attr]
            module.score_std.zero_()  # type: ignore[operator, union-attr]
    return result


def _copy(reward: Reward) -> Reward:
    """A copy that shares the weights that are not trained."""
    return deepcopy(
        reward, {id(weight): weight for weight in reward.parameters() if not weight.requires_grad}
    )


def _check_same_kind(rewards: list[Reward], states: list[dict[str, Tensor]]) -> None:
    if len(rewards) < 2:
        raise InputError(f"averaged needs two or more rewards; got {len(rewards)}.")
    kinds = [type(reward).__name__ for reward in rewards]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if len(set(kinds)) > 1 or any(shape != shapes[0] for shape in shapes):
        raise InputError(
            f"averaged needs rewards of one class, with tensors of one shape; got {', '.join(kinds)} that differ."
        )


def _check_same_start(rewards: list[Reward], forked: bool) -> None:
    starts = [reward.initialization for reward in rewards]
    unknown = starts.count(None)
    if len(set(starts) - {None}) > 1:
        raise InputError(
            "averaged needs members that started from the same weights; these are forks of different rewards."
        )
    if unknown and not forked:
        raise InputError(
            f"averaged needs members that started from the same weights, and {unknown} of {len(rewards)} carry no record of "
            "it. Train copies that `fork` made; or, if you know that they did, averaged(rewards, forked=True). Heads with "
            "different seeds did not."
        )
