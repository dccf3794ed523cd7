"""Attack: what an adversary is rewarded for."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.base import Reward
from rewardlab.rewards.combine import Ensemble
from rewardlab.rewards.relative import Relative
from rewardlab.types import Samples


class Attack(Reward):
    """R1 - λ·R2 where the target R1 beats the threshold, R1 - penalty below. Adv-RM, 2504.06141,
    equation 3.

    An adversary that maximises it finds outputs that the target loves and the witness doubts. Below
    the threshold the target still counts, as in the author's code: that is the way up to it;
    exactly on it there is the target alone.

    Penalties are in the target's units: standard deviations of the references for a `Relative`
    target, a fixed scale that the author's numbers (25 and 50 for one reward model) lack. Do not
    normalise advantages by their deviation, or the gate dominates the gradient.

    Args:
        target: R1, the reward under attack.
        witness: R2, the reward that should object: a second one, an ensemble's mean or minimum
            (`Pessimistic`), or `Novelty`, on the target's scale.
        weight: λ, how much the witness's objection counts.
        threshold: T(x), what the target has to be above: "reference" is the mean of the prompt's
            references, which is 0 for a `Relative` target (or an Ensemble of such); or one number
            for all prompts.
        penalty: taken off where the target is below the threshold.
        length_penalty: minus this is the whole score of an output longer than `max_length`.
        max_length: in the policy's units (tokens), read from the fact "length"; no limit by
            default.
        unfinished_penalty: minus this is the whole score of an output whose fact "finished" is
            false; none by default.

    Raises:
        InputError: if the threshold is "reference" and the target not relative to any, or (on use)
            the policy gives no fact that a penalty reads.

    Example:
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> attack = Attack(Length(), Repetition(n=1), threshold=2.0)
        >>> attack(Samples([""] * 3, ["of of of", "of of", "of"])).tolist()
        [3.6666667461395264, 2.0, -9.0]
    """

    def __init__(
        self,
        target: Reward,
        witness: Reward,
        weight: float = 1.0,
        threshold: float | Literal["reference"] = "reference",
        penalty: float = 10.0,
        length_penalty: float = 20.0,
        max_length: int | None = None,
        unfinished_penalty: float | None = None,
    ) -> None:
        super().__init__()
        if threshold == "reference" and not _is_relative(target):
            raise InputError(
                f'threshold="reference" is the mean score of the prompt\'s references, which {type(target).__name__} does not '
                "know. Give Relative(target, references), or a number."
            )
        self.target = target
        self.witness = witness
        self.weight = weight
        self.penalty = penalty
        self.threshold = 0.0 if threshold == "reference" else float(threshold)
        self.length_penalty = length_penalty
        self.max_length = max_length
        self.unfinished_penalty = unfinished_penalty

    def forward(self, samples: Samples) -> Tensor:
        """Return the adversary's reward, float32 [B]."""
        return self.combine(self.parts(samples), samples.facts)

    def parts(self, samples: Samples) -> Tensor:
        """Return what target and witness give, float32 [B, 2]."""
        return torch.stack([self.target(samples), self.witness(samples)], dim=1)

    def combine(self, parts: Tensor, facts: Mapping[str, Tensor]) -> Tensor:
        """Return the adversary's reward [B] from `parts` [B, 2] and the samples' facts.

        Raises:
            InputError: if a penalty is asked for whose fact is missing.
        """
        scores = gated(
            *parts.unbind(1), threshold=self.threshold, weight=self.weight, penalty=self.penalty
        )
        replaced = []
        if self.max_length is not None:
            too_long = _fact(facts, "length", f"max_length={self.max_length}") > self.max_length
            replaced.append((self.length_penalty, too_long))
        if self.unfinished_penalty is not None:
            finished = _fact(
                facts, "finished", f"unfinished_penalty={self.unfinished_penalty:g}"
            ).bool()
            replaced.append((self.unfinished_penalty, ~finished))
        for penalty, rows in sorted(replaced, key=itemgetter(0)):  # where both hold, the larger
            scores = scores.masked_fill(rows.to(scores.device), -penalty)
        return scores


def gated(
    target: Tensor, witness: Tensor, *, threshold: float, weight: float = 1.0, penalty: float = 10.0
) -> Tensor:
    """R1 - λ·R2·[R1 > T] - penalty·[R1 < T], elementwise, with target R1, witness R2, threshold T
    and weight λ.

    Example:
        >>> gated(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([5.0, 5.0, 5.0]), threshold=1.0).tolist()
        [-3.0, 1.0, -10.0]
    """
    return target - weight * witness.where(target > threshold, 0) - penalty * (target < threshold)


def _is_relative(reward: Reward) -> bool:
    """Tell whether the mean score of a prompt's references is 0."""
    if isinstance(reward, Ensemble):
        return all(_is_relative(member) for member in reward.rewards)
    return isinstance(reward, Relative)


def _fact(facts: Mapping[str, Tensor], name: str, why: str) -> Tensor:
    if name in facts:
        return facts[name]
    raise InputError(
        f'{why} reads the fact "{name}" of the samples, and this policy gives {sorted(facts) or "no facts"}. A language '
        "model gives it; leave the penalty out for a policy whose outputs have no such fact."
    )
