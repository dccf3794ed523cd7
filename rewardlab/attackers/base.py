"""What attackers have in common.

An attacker is any callable of (policy, reward, prompts, seed) that returns Samples: outputs that
`reward`, mostly an `Attack`, likes. It changes neither the policy nor the reward. A config names a
class whose instances are such callables.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.policies import Generator, Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.scoring import judged, judged_by
from rewardlab.types import Samples

_log = logging.getLogger("rewardlab")
Attacker = Callable[[Generator, Reward, Sequence[str], int], Samples]
StopRule = Callable[[Samples], bool]


class TrainedAttacker(ABC):
    """An attacker that trains an adversary, so that it can be stopped and resumed.

    Whoever runs one may copy it and set these attributes.

    Attributes:
        folder: folder of metrics and checkpoints, from which a killed attack resumes; None writes
            nothing.
        until: early stopping: called with the samples so far; training stops when it returns True.
    """

    folder: str | Path | None
    until: StopRule | None

    @abstractmethod
    def __call__(
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        """Return the samples of an adversary that is trained on `reward`."""


class Perturbs(ABC):
    """An attacker that changes outputs which the policy drew, so that both can be compared."""

    @abstractmethod
    def starts(self, policy: Generator, samples: Samples) -> Samples | None:
        """Return what each of its outputs was before, or None if that is not known any more."""


def with_scores(reward: Reward, samples: Samples) -> Samples:
    """Return the samples with their score as the fact "attack".

    The parts of an `Attack` become the facts "target" and "witness". NaN stands where a sample is
    not scored.

    Example:
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> attack = Attack(Length(), Repetition(n=1), threshold=1)
        >>> samples = with_scores(attack, Samples(["hi"], ["of of"]))
        >>> {name: column.tolist() for name, column in samples.facts.items()}
        {'attack': [2.5], 'target': [2.0], 'witness': [-0.5]}
    """
    if isinstance(reward, Attack):
        return with_parts(reward, samples, judged_by(reward, reward.parts, samples).scores)
    return samples.with_facts(attack=judged(reward, samples).scores)


def scored_only(samples: Samples) -> Samples:
    """Return the samples whose fact "attack" is there, and say in the log how many are left out.

    Raises:
        InputError: if there is none.

    Example:
        >>> scores = torch.tensor([1.0, float("nan")])
        >>> scored_only(Samples(["", ""], ["a", "b"], {"attack": scores})).outputs
        ['a']
    """
    scored = ~samples.facts["attack"].isnan().cpu()
    if scored.all():
        return samples
    if not scored.any():
        raise InputError(
            f"None of {len(samples)} outputs of the attack is scored by target and witness, so "
            "nothing is left of it. Mend what kept the rewards from scoring them."
        )
    sentence = "%d of %d outputs of the attack are not scored and are left out."
    _log.warning(sentence, int((~scored).sum()), len(samples))
    return samples[scored]


def with_length(policy: Generator, samples: Samples, who: str) -> Samples:
    """Replace the fact "length", where there is one, by that of the outputs as they are now.

    Args:
        policy: whose tokens count.
        samples: with outputs that were changed.
        who: the attacker, for the message.

    Raises:
        InputError: if there is a length to measure, and the policy cannot encode outputs.
    """
    if "length" not in samples.facts:
        return samples
    if not isinstance(policy, Policy):
        raise InputError(
            f"{who} measures the length of edited outputs by the policy's `encode`, which a "
            f"{type(policy).__name__} lacks. Attack the policy inside it, or take BestOfN."
        )
    seeds = torch.zeros(len(samples), dtype=torch.long)
    lengths = policy.encode(samples, seeds=seeds).mask.sum(1)
    return samples.with_facts(length=lengths.to(samples.facts["length"]))


def with_parts(attack: Attack, samples: Samples, parts: Tensor) -> Samples:
    """Return the samples with the facts of `with_scores`, from the parts [B, 2] of the attack."""
    target, witness = parts.unbind(1)
    scores = attack.combine(parts, samples.facts)
    return samples.with_facts(attack=scores, target=target, witness=witness)


def highest(samples: Samples, k: int, keep: int | None) -> Samples:
    """Return the `keep` highest of each prompt's K scored samples, the highest first.

    None keeps all, in their order. A prompt's samples lie together. Those that are not scored (NaN)
    come last.

    Example:
        >>> import torch
        >>> scores = torch.tensor([1.0, 3.0, 2.0])
        >>> samples = Samples(["hi"] * 3, ["a", "b", "c"], {"attack": scores})
        >>> highest(samples, k=3, keep=2).outputs
        ['b', 'c']
    """
    if keep is None:
        return samples
    groups = samples.facts["attack"].nan_to_num(-torch.inf).view(-1, k)
    order = groups.argsort(dim=1, descending=True, stable=True)
    first_rows = torch.arange(len(groups), device=order.device)[:, None] * k
    return samples[(first_rows + order[:, :keep]).flatten()]


def check_counts(who: str, n: int, keep: int | None) -> None:
    """Refuse to keep more samples of a prompt than are drawn.

    Raises:
        InputError: unless 1 <= keep <= n.
    """
    returned = n if keep is None else keep
    if n < 1 or not 1 <= returned <= n:
        raise InputError(
            f"{who} draws n >= 1 samples a prompt and keeps from 1 to n of them; "
            f"got n={n} and keep={keep}."
        )
