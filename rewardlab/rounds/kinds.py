"""Rewards of the wrong modality, refused before anything is trained.

What a fragment of the menu names stands deep in the rounds, in a callback or what makes the reward,
and is first used after the fits. `Reward.check_samples` of a blank output says it at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.types import Samples

DEPTH = 6  # of what rounds are made of


def check_kinds(rounds: Any, real: Samples) -> None:
    """Refuse a reward anywhere in the rounds that cannot score such outputs as these.

    Args:
        rounds: as they were built.
        real: outputs of the rounds' modality; of none, nothing is known.

    Raises:
        InputError: naming the argument that holds the reward.
    """
    if not len(real):
        return
    blank = Samples(["a"], ["a"])
    if isinstance(real.outputs, Tensor):
        blank = Samples(["a"], torch.zeros_like(real.outputs[:1]))
    for place, reward in rewards_in(rounds):
        parts = [part for part in reward.modules() if isinstance(part, Reward)]
        for part in parts:
            _check(part, blank, place)


def rewards_in(part: Any, place: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Reward]]:
    """Give the rewards that an object is made of, each with its place, such as "tether.novelty".

    Example:
        >>> from rewardlab.rewards import Length
        >>> from rewardlab.rounds import Tether
        >>> [place for place, _ in rewards_in({"tether": Tether(Length())})]
        ['tether.novelty']
    """
    if isinstance(part, Reward):
        yield place, part
        return
    if not depth:
        return
    for name, value in _contents(part).items():
        inner = f"{place}.{name}" if place else str(name)
        yield from rewards_in(value, inner, depth - 1)


def _contents(part: Any) -> Mapping[Any, Any]:
    """Return what a container, a partial or an object of rewardlab holds, by name."""
    if isinstance(part, Mapping):
        return part
    if isinstance(part, list | tuple):
        return dict(enumerate(part))
    if isinstance(part, partial):
        return part.keywords
    is_ours = type(part).__module__.startswith("rewardlab.")
    if isinstance(part, nn.Module | Samples | type) or not is_ours:
        return {}
    return getattr(part, "__dict__", {})


def _check(reward: Reward, blank: Samples, place: str) -> None:
    try:
        reward.check_samples(blank)
    except InputError as error:
        raise InputError(
            f"{place}: {error} Name a reward there of what the policy draws, or leave it out."
        ) from None
