"""Reward-guided decoding: the attack reward chooses each piece of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rewardlab.attackers.base import highest, with_scores
from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.policies.abilities import Continues
from rewardlab.rewards import Reward
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples, concatenate


@dataclass(frozen=True)
class Guided:
    """Best of k continuations of m tokens each, again and again: a greedy search without training.

    After `segments` pieces it is at most `segments`·(ln k - (k - 1)/k) nats from the policy. Texts
    that are not finished yet are judged as if they ended there (no penalty for being unfinished),
    so the reward should make sense of a text's beginning. Scores of the returned samples are those
    of the whole texts, with all penalties.

    The policy has to offer one more verb: `extend(samples, tokens, *, seeds) -> Samples`. It
    continues each output by at most `tokens` tokens, drawn as in `sample` from what follows prompt
    and output, an empty output being the start; keeps the rows' order; and gives the facts
    "finished" and "length" of the whole outputs. It is not asked to extend finished rows.

    Args:
        candidates: k, continuations drawn of each text.
        tokens: m, of each continuation.
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
        self, policy: Policy, reward: Reward, prompts: Sequence[str], seed: int
    ) -> Samples:
        if not isinstance(policy, Continues):
            raise InputError(
                f"Guided continues texts piece by piece by the policy's `extend`, which a {type(policy).__name__} lacks. Take "
                "BestOfN for it."
            )
        known = {
            "finished": torch.zeros(len(prompts), dtype=torch.bool),
            "length": torch.zeros(len(prompts), dtype=torch.long),
        }
        texts = Samples(prompts, [""] * len(prompts), known)
        for number in range(self.segments):
            going = (~texts.facts["finished"]).nonzero().flatten()
            if len(going) == 0:
                break
            best = self._extended(
                policy, reward, texts[going], row_seeds(derive(seed, "guided", number), going)
            )
            place = torch.arange(len(texts)).index_copy(
                0, going, len(texts) + torch.arange(len(going))
            )
            texts = concatenate([texts, best])[place]
        return with_scores(reward, texts)

    def _extended(
        self, policy: Policy, reward: Reward, texts: Samples, seeds: torch.Tensor
    ) -> Samples:
        """Return each text with the best of its continuations."""
        own = torch.stack(
            [row_seeds(derive(0, "guided", i), seeds) for i in range(self.candidates)], 1
        ).flatten()
        drawn = policy.extend(
            texts[torch.arange(len(texts)).repeat_interleave(self.candidates)],
            self.tokens,
            seeds=own,
        )
        finished = drawn.facts["finished"]
        judged = with_scores(reward, drawn.with_facts(finished=torch.ones_like(finished)))
        return highest(judged.with_facts(finished=finished), self.candidates, keep=1)
