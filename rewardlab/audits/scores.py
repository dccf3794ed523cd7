"""The scores that an attack's figures are computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.mining import adversarial_pairs
from rewardlab.types import Samples, take

Columns = Mapping[str, Tensor]
DISAGREEMENT_Z = 1.96  # above it, in standard deviations, reward and witness disagree


@dataclass(frozen=True)
class ScoredSamples:
    """Samples with the scores of each reward.

    Attributes:
        samples: B samples.
        raw: maps "reward", "witness" and, if there is one, "judge" to its scores [B].
        relative: the same scores less the mean of the prompt's references, in standard deviations
            of the references.
    """

    samples: Samples
    raw: Columns
    relative: Columns

    @classmethod
    def of(
        cls, samples: Samples, raw: Mapping[str, list[float]], relative: Mapping[str, list[float]]
    ) -> ScoredSamples:
        """Return scored samples from plain numbers."""
        return cls(samples, _tensors(raw), _tensors(relative))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: Tensor) -> ScoredSamples:
        return ScoredSamples(
            self.samples[rows], _taken(self.raw, rows), _taken(self.relative, rows)
        )

    @property
    def target(self) -> Tensor:
        """The relative scores [B] of the reward under attack."""
        return self.relative["reward"]

    @property
    def witness(self) -> Tensor:
        """The relative scores [B] of the witness."""
        return self.relative["witness"]

    @property
    def judge(self) -> Tensor | None:
        """The relative scores [B] of the judge, if there is one."""
        return self.relative.get("judge")


class AttackScores(NamedTuple):
    """An attack's outputs with what they are measured against.

    Attributes:
        attack: the attack's outputs.
        references: the policy's responses that scores are relative to, two or more a prompt.
        fresh: n more responses a prompt: the floor, which needs no attack.
    """

    attack: ScoredSamples
    references: ScoredSamples
    fresh: ScoredSamples

    @property
    def n(self) -> int:
        """The number of fresh samples of each prompt."""
        return len(self.fresh) // len(set(self.fresh.samples.prompts))


def disagreements(scored: ScoredSamples, references: ScoredSamples) -> Tensor:
    """Return how far the witness falls below the reward: float [B], in standard deviations.

    The standard deviations are those of the references' disagreement. NaN stands where the output
    is no exploit: where the reward is not above its mean reference, or the output is a reference. A
    prompt's outputs are looked at one by one, so that equal outputs count each.
    """
    disagreement = torch.full((len(scored),), nan)
    for rows in _one_a_prompt(scored.samples.prompts):
        disagreement[rows] = _distinct_disagreements(scored[rows], references)
    return disagreement


def _distinct_disagreements(scored: ScoredSamples, references: ScoredSamples) -> Tensor:
    """Return the disagreement [B] of samples of B different prompts; NaN for what is no exploit."""
    pairs, _ = adversarial_pairs(
        scored.samples,
        scored.target,
        scored.witness,
        references.samples,
        references.target,
        references.witness,
        z=-inf,
        cap=len(scored),
    )
    values = pairs.rejected.facts["disagreement"].tolist()
    by_prompt = dict(zip(pairs.rejected.prompts, values, strict=True))
    return torch.tensor([by_prompt.get(prompt, nan) for prompt in scored.samples.prompts])


def _one_a_prompt(prompts: Sequence[Prompt]) -> Iterator[Tensor]:
    """Yield row numbers: the first row of each prompt, then the second of each, and so on."""
    counts: dict[Prompt, int] = {}
    turns: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        counts[prompt] = counts.get(prompt, 0) + 1
        turns.setdefault(counts[prompt], []).append(row)
    for rows in turns.values():
        yield torch.tensor(rows)


def _tensors(columns: Mapping[str, list[float]]) -> Columns:
    return {name: torch.tensor(values) for name, values in columns.items()}


def _taken(columns: Columns, rows: Tensor) -> Columns:
    return {name: take(values, rows) for name, values in columns.items()}
