"""What attackers have in common.

An attacker is any callable of (policy, reward, prompts, seed) that returns Samples: outputs that
`reward`, mostly an `Attack`, likes. It changes neither the policy nor the reward. A config names a
class whose instances are such callables.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.base import checked_scores
from rewardlab.rewards.scoring import in_batches
from rewardlab.types import Samples

Attacker = Callable[[Policy, Reward, Sequence[str], int], Samples]


class TrainedAttacker(ABC):
    """An attacker that trains an adversary, keeps checkpoints and can end early.

    Attributes:
        folder: where metrics and checkpoints go, so that a killed attack goes on from the last.
        until: called with all samples so far; training ends when it returns True.
    """

    folder: str | Path | None
    until: Callable[[Samples], bool] | None


def with_scores(reward: Reward, samples: Samples) -> Samples:
    """Return the samples with their score as the fact "attack", and what an Attack is made of as
    "target" and "witness".

    Example:
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> samples = with_scores(Attack(Length(), Repetition(n=1), threshold=1), Samples(["hi"], ["of of"]))
        >>> {name: column.tolist() for name, column in samples.facts.items()}
        {'attack': [2.5], 'target': [2.0], 'witness': [-0.5]}
    """
    if isinstance(reward, Attack):
        return with_parts(reward, samples, in_batches(reward, reward.parts, samples))
    return samples.with_facts(
        attack=checked_scores(in_batches(reward, reward, samples), samples, type(reward).__name__)
    )


def with_parts(attack: Attack, samples: Samples, parts: Tensor) -> Samples:
    """Return the samples with the facts that `with_scores` gives, from what `attack.parts` returned."""
    parts = checked_scores(parts, samples, "Attack")
    target, witness = parts.unbind(1)
    return samples.with_facts(
        attack=attack.combine(parts, samples.facts), target=target, witness=witness
    )


def highest(samples: Samples, k: int, keep: int | None) -> Samples:
    """Return the `keep` highest of each prompt's K scored samples, which lie together, the highest
    first; all if None.

    Example:
        >>> import torch
        >>> samples = Samples(["hi"] * 3, ["a", "b", "c"], {"attack": torch.tensor([1.0, 3.0, 2.0])})
        >>> highest(samples, k=3, keep=2).outputs
        ['b', 'c']
    """
    if keep is None:
        return samples
    order = (
        samples.facts["attack"].view(-1, k).argsort(dim=1, descending=True, stable=True)[:, :keep]
    )
    first = order.new_tensor(range(len(order)))[:, None] * k
    return samples[(first + order).flatten()]


def check_counts(who: str, n: int, keep: int | None) -> None:
    """Refuse to keep more samples of a prompt than are drawn.

    Raises:
        InputError: unless 1 <= keep <= n.
    """
    if n < 1 or not 1 <= (n if keep is None else keep) <= n:
        raise InputError(
            f"{who} draws n >= 1 samples a prompt and keeps from 1 to n of them; got n={n} and keep={keep}."
        )
