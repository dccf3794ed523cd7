"""Reward-guided decoding: the attack reward chooses each piece of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewardlab.attackers.base import highest, scored_only, with_scores
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.policies import Generator
from rewardlab.policies.abilities import Continues
from rewardlab.rewards import Reward
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples, concatenate


@dataclass(frozen=True)
class Guided:
    """Extend each text by the best of k continuations of m tokens, again and again.

    This is a greedy search without training. After `segments` pieces it is at most
    `segments`·(ln k - (k - 1)/k) nats from the policy. Texts that are not finished yet are scored
    as if they ended there (without a penalty for being unfinished), so the reward should make sense
    of a text's beginning. Scores of the returned samples are those of the whole texts, with all
    penalties.

    The policy has the ability `Continues`: `extend(samples, tokens, *, seeds) -> Samples`. It
    continues each output by at most `tokens` tokens, drawn as in `sample` from what follows prompt
    and output; an empty output is the start. It keeps the rows' order, and gives the facts
    "finished" and "length" of the whole outputs. Finished rows are not extended.

    Args:
        candidates: k, continuations drawn of each text.
        tokens: m, tokens of each continuation.
        segments: most continuations of a text.

    Raises:
        InputError: if a number is below 1, or (on use) the policy has no `extend`.
    """

    candidates: int = 8
    tokens: int = 8
    segments: int = 16

    def __post_init__(self) -> None:
        if min(self.candidates, self.tokens, self.segments) < 1:
            raise InputError(
                f"Guided needs candidates, tokens and segments of at least 1; got {self}."
            )

    @torch.no_grad()
    def __call__(
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        if not isinstance(policy, Continues):
            raise InputError(
                "Guided continues texts piece by piece by the policy's `extend`, which a "
                f"{type(policy).__name__} lacks. Take BestOfN for it."
            )
        texts = _empty_texts(prompts)
        for segment in range(self.segments):
            unfinished = (~texts.facts["finished"]).nonzero().flatten()
            if len(unfinished) == 0:
                break
            seeds = row_seeds(derive(seed, "guided", segment), unfinished)
            extended = self._extended(policy, reward, texts[unfinished], seeds)
            texts = _replaced(texts, unfinished, extended)
        return scored_only(with_scores(reward, texts))

    def _extended(
        self, policy: Continues, reward: Reward, texts: Samples, seeds: Tensor
    ) -> Samples:
        """Return each text with the best of its continuations."""
        columns = []
        for number in range(self.candidates):
            columns.append(row_seeds(derive(0, "guided", number), seeds))
        candidate_seeds = torch.stack(columns, 1).flatten()
        rows = torch.arange(len(texts)).repeat_interleave(self.candidates)
        continued = policy.extend(texts[rows], self.tokens, seeds=candidate_seeds)
        finished = continued.facts["finished"]
        as_if_finished = continued.with_facts(finished=torch.ones_like(finished))
        scored = with_scores(reward, as_if_finished).with_facts(finished=finished)
        return highest(scored, self.candidates, keep=1)


def _empty_texts(prompts: Sequence[Prompt]) -> Samples:
    """Return an empty, unfinished text for each prompt."""
    count = len(prompts)
    facts = {
        "finished": torch.zeros(count, dtype=torch.bool),
        "length": torch.zeros(count, dtype=torch.long),
    }
    return Samples(prompts, [""] * count, facts)


def _replaced(texts: Samples, rows: Tensor, replacements: Samples) -> Samples:
    """Return the texts with those of some rows replaced."""
    count = len(texts)
    replacement_places = count + torch.arange(len(rows))
    places = torch.arange(count).index_copy(0, rows, replacement_places)
    replaced: Samples = concatenate([texts, replacements])[places]
    return replaced
