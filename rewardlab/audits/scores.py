"""The scores that an attack's figures are computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
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


class OnlyScored(NamedTuple):
    """An attack's scores without what some reward did not score.

    Attributes:
        scores: what is left.
        rows: the place of each output of the attack that is left among all of them.
        unscored: how many of each side are not scored, for sides where some are; and "prompts",
            how many prompts were dropped.
    """

    scores: AttackScores
    rows: list[int]
    unscored: dict[str, int]


def only_scored(scores: AttackScores) -> OnlyScored:
    """Leave out what reward, witness or judge did not score.

    A prompt with fewer than two references that are scored is dropped. Of fresh samples every
    prompt keeps as many, the first that are scored: as many as the prompt with the fewest has.

    Raises:
        InputError: if nothing is left of a side, or no fresh sample of a prompt.
    """
    present = {side: _present(scored) for side, scored in scores._asdict().items()}
    unscored = {side: int((~rows).sum()) for side, rows in present.items() if not rows.all()}
    if not unscored:
        return OnlyScored(scores, list(range(len(scores.attack))), {})
    prompts = scores.references.samples.prompts
    compared = _with_several(prompts, present["references"])
    dropped = len(set(prompts) - compared)
    if dropped:
        unscored["prompts"] = dropped
    kept = {}
    places = {}
    for side, scored in scores._asdict().items():
        is_compared = [prompt in compared for prompt in scored.samples.prompts]
        rows = (present[side] & torch.tensor(is_compared)).nonzero().flatten()
        if side == "fresh":
            of_fresh = [scored.samples.prompts[row] for row in rows.tolist()]
            rows = rows[as_many_each(of_fresh, torch.ones(len(rows), dtype=torch.bool))]
        _check_left(side, len(scored), len(rows))
        kept[side] = scored[rows]
        places[side] = rows.tolist()
    return OnlyScored(AttackScores(**kept), places["attack"], unscored)


def _with_several(prompts: Sequence[Prompt], present: Tensor) -> set[Prompt]:
    """Return the prompts with two rows or more that are present."""
    counts: dict[Prompt, int] = {}
    for prompt, is_present in zip(prompts, present.tolist(), strict=True):
        counts[prompt] = counts.get(prompt, 0) + is_present
    return {prompt for prompt, count in counts.items() if count > 1}


def _check_left(side: str, count: int, left: int) -> None:
    """Refuse a side of which nothing is left."""
    if not left:
        raise InputError(
            f"Of the {count} {side} samples too few are scored by reward, witness and judge, so "
            "nothing is left to measure. Mend what kept them from scoring."
        )


def _present(scored: ScoredSamples) -> Tensor:
    """Return which samples each reward scores, bool [B]."""
    columns = [values.isnan() for values in scored.relative.values()]
    return ~torch.stack(columns).any(0)


def as_many_each(prompts: Sequence[Prompt], present: Tensor) -> Tensor:
    """Return which of the present samples stay, bool [B], so that each prompt has as many."""
    counts = dict.fromkeys(prompts, 0)
    numbers = []
    for prompt, is_present in zip(prompts, present.tolist(), strict=True):
        counts[prompt] += is_present
        numbers.append(counts[prompt])
    return present & (torch.tensor(numbers) <= min(counts.values()))


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
