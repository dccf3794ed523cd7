"""Attack: what an adversary is rewarded for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.combine import Ensemble
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.rewards.relative import Relative
from rewardlab.types import Samples

SETTINGS = (
    "weight",
    "threshold",
    "penalty",
    "length_penalty",
    "max_length",
    "unfinished_penalty",
)


class Attack(Reward, Saved):
    """R1 - λ·R2 where the target R1 beats the threshold, and R1 - penalty below it.

    That is Adv-RM, arXiv 2504.06141, equation 3. An adversary that maximises it finds outputs that
    the target loves and the witness doubts. Below the threshold the target still counts, as in the
    author's code: that is the way up to it. Exactly on the threshold there is the target alone.

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

    takes_trust = True

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
                'threshold="reference" is the mean score of the prompt\'s references, which '
                f"{type(target).__name__} does not know. Give Relative(target, references), or a "
                "number."
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
        target, witness = parts.unbind(1)
        scores = gated(
            target,
            witness,
            threshold=self.threshold,
            weight=self.weight,
            penalty=self.penalty,
        )
        replacements = self._replacements(facts)
        for replacement in sorted(replacements, key=_penalty):  # where both hold, the larger stays
            rows = replacement.rows.to(scores.device)
            scores = scores.masked_fill(rows, -replacement.penalty)
        return scores

    def check_savable(self) -> None:
        """Refuse an attack whose target or witness cannot be saved."""
        check_parts([self.target, self.witness])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the settings and, into `folder`/target and /witness, the two rewards.

        Raises:
            InputError: if one of them cannot be saved, or `folder` holds something else.
        """
        settings = {name: getattr(self, name) for name in SETTINGS}
        parts = {"target": self.target, "witness": self.witness}
        write_reward(folder, self, settings, parts)

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Attack:
        """Load what `save_pretrained` wrote, in eval mode."""
        settings = read_settings(folder, *SETTINGS)
        target = load_reward(Path(folder) / "target", trust=trust)
        witness = load_reward(Path(folder) / "witness", trust=trust)
        return cls(target, witness, **settings).eval()

    def _replacements(self, facts: Mapping[str, Tensor]) -> list[_Replacement]:
        """Return which rows get minus a penalty as their whole score."""
        replacements = []
        if self.max_length is not None:
            lengths = _fact(facts, "length", f"max_length={self.max_length}")
            too_long = lengths > self.max_length
            replacements.append(_Replacement(self.length_penalty, too_long))
        if self.unfinished_penalty is not None:
            reader = f"unfinished_penalty={self.unfinished_penalty:g}"
            finished = _fact(facts, "finished", reader).bool()
            replacements.append(_Replacement(self.unfinished_penalty, ~finished))
        return replacements


class _Replacement(NamedTuple):
    """Rows whose whole score is minus a penalty.

    Attributes:
        penalty: the score's opposite.
        rows: bool [B].
    """

    penalty: float
    rows: Tensor


def gated(
    target: Tensor, witness: Tensor, *, threshold: float, weight: float = 1.0, penalty: float = 10.0
) -> Tensor:
    """Return R1 - λ·R2·[R1 > T] - penalty·[R1 < T], elementwise.

    R1 is the target, R2 the witness, T the threshold and λ the weight.

    Example:
        >>> target = torch.tensor([2.0, 1.0, 0.0])
        >>> gated(target, torch.full((3,), 5.0), threshold=1.0).tolist()
        [-3.0, 1.0, -10.0]
    """
    return target - weight * witness.where(target > threshold, 0) - penalty * (target < threshold)


def _penalty(replacement: _Replacement) -> float:
    return replacement.penalty


def _is_relative(reward: nn.Module) -> bool:
    """Tell whether the mean score of a prompt's references is 0."""
    if isinstance(reward, Ensemble):
        return all(_is_relative(member) for member in reward.rewards)
    return isinstance(reward, Relative)


def _fact(facts: Mapping[str, Tensor], name: str, reader: str) -> Tensor:
    if name in facts:
        return facts[name]
    raise InputError(
        f'{reader} reads the fact "{name}" of the samples, and this policy gives '
        f"{sorted(facts) or 'no facts'}. A language model gives it; leave the penalty out for a "
        "policy whose outputs have no such fact."
    )
