"""Averaging weights (WARM): several rewards that were trained from one start become one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.rewards.abilities import Calibrated
from rewardlab.rewards.base import Reward

State = Mapping[str, Tensor]


def fork(reward: Reward, count: int) -> list[Reward]:
    """Return copies that share frozen weights, to be trained apart and then `averaged`.

    Their common start is in their attribute `initialization`, which lives as long as the object and
    is not saved.

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
        >>> from rewardlab.types import Samples
        >>> reward = VisionReward(tiny_tower(), width=8)
        >>> samples = Samples([""], torch.rand(1, 3, 16, 16))
        >>> averaged(fork(reward, 3))(samples).equal(reward(samples))
        True
    """
    states = [reward.state_dict() for reward in rewards]
    _check_same_kind(rewards, states)
    _check_same_start(rewards, forked)
    differing = _differing(states)
    _check_same_frozen_weights(rewards[0], differing)
    means = {}
    for name in differing:
        weights = torch.stack([state[name].double() for state in states])
        means[name] = weights.mean(0).to(states[0][name].dtype)
    result = _copy(rewards[0])
    result.load_state_dict(means, strict=False)
    if differing:
        _unset_calibration(result)
    return result


def _copy(reward: Reward) -> Reward:
    """Return a copy that shares the weights that are not trained."""
    frozen = [weight for weight in reward.parameters() if not weight.requires_grad]
    return deepcopy(reward, {id(weight): weight for weight in frozen})


def _differing(states: list[State]) -> list[str]:
    """Return the names of tensors that are not equal in all states."""
    first = states[0]
    names = []
    for name, tensor in first.items():
        if any(not torch.equal(tensor, state[name]) for state in states[1:]):
            names.append(name)
    return names


def _unset_calibration(reward: Reward) -> None:
    for module in reward.modules():
        if isinstance(module, Calibrated):
            module.score_mean.zero_()
            module.score_std.zero_()


def _shapes(state: State) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _check_same_kind(rewards: list[Reward], states: list[State]) -> None:
    if len(rewards) < 2:
        raise InputError(f"averaged needs two or more rewards; got {len(rewards)}.")
    kinds = [type(reward).__name__ for reward in rewards]
    shapes = [_shapes(state) for state in states]
    if len(set(kinds)) > 1 or any(shape != shapes[0] for shape in shapes):
        raise InputError(
            "averaged needs rewards of one class, with tensors of one shape; got "
            f"{', '.join(kinds)} that differ."
        )


def _check_same_start(rewards: list[Reward], forked: bool) -> None:
    starts = [reward.initialization for reward in rewards]
    without_record = starts.count(None)
    if len(set(starts) - {None}) > 1:
        raise InputError(
            "averaged needs members that started from the same weights; these are forks of "
            "different rewards."
        )
    if without_record and not forked:
        raise InputError(
            "averaged needs members that started from the same weights, and "
            f"{without_record} of {len(rewards)} carry no record of it. Train copies that `fork` "
            "made; or, if you know that they did, averaged(rewards, forked=True). Heads with "
            "different seeds did not."
        )


def _check_same_frozen_weights(reward: Reward, differing: list[str]) -> None:
    """Refuse rewards that differ in weights that are not trained."""
    frozen = []
    for name, weight in reward.named_parameters():
        if not weight.requires_grad and name in differing:
            frozen.append(name)
    if frozen:
        raise InputError(
            f"The rewards differ in weights that are not trained, such as {min(frozen)}: they "
            "stand on other models."
        )
