"""TokenGradient: swaps of tokens that the reward's own gradient proposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.attackers.base import check_counts, highest, scored_only, with_length, with_scores
from rewardlab.attackers.token_swaps import (
    Gains,
    embedding_parts,
    response_of,
    spelled,
    swap_gains,
)
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Generator, Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import device_of_reward, judged
from rewardlab.seeds import derive, generators, row_seeds
from rewardlab.training.base import step_total
from rewardlab.types import Samples, texts_of

FILLER = " !"  # what a suffix begins as, as in GCG's code


class Proposal(NamedTuple):
    """A text with one token swapped.

    Attributes:
        text: the response.
        ids: the tokens of prompt and response, as the reward is to read them.
        row: the number of the sample whose text it would replace.
    """

    text: str
    ids: list[int]
    row: int


@dataclass(frozen=True)
class TokenGradient:
    """Swap tokens of the policy's own texts, led by the reward's gradient to their embeddings.

    GCG, arXiv 2307.15043, algorithm 1, on a reward (arXiv 2603.06621); HotFlip, arXiv 1712.06751.
    At each step the gradient by the one-hot of each place names the `top` tokens that should gain
    most there. `swaps` of these, one half of the largest expected gains and the other at random,
    are scored in one batch, and the best text stays if it is better than before. So no score falls.
    Texts whose tokens would be read back as other tokens are left out.

    The prompt of a text's swaps is run once for all of them, where the reward shares prompts. A
    reward that is made of others, such as an Attack, is climbed as a whole; its parts with another
    vocabulary than the first part's count in the scores, and not in the gradient.

    Args:
        steps: number of steps, each of at most one swap a text.
        top: k, tokens proposed for each place.
        swaps: B, swaps scored of each text a step.
        suffix: number of tokens that are put behind each text, and then are the only ones to be
            swapped; by default those of the text itself are.
        fluency: κ, what a text gains for a nat of its log-probability under the policy; 0 asks
            nothing of it.
        n: samples drawn of each prompt.
        keep: samples returned of each prompt, the best first; all if None.
        batch_size: texts scored at once, and texts whose gradients are taken at once.

    Raises:
        InputError: if a number is out of range, or (on use) the outputs are no texts, no part of
            the reward embeds tokens (`EmbedsTokens`), or fluency is asked of no Policy.

    Example:
        >>> from rewardlab.policies import CausalLMPolicy
        >>> from rewardlab.rewards import LanguageReward
        >>> from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
        >>> reward = LanguageReward(tiny_causal_lm(seed=1), tiny_tokenizer(), frozen=True).eval()
        >>> samples = Samples(["hi"], ["hello"])
        >>> found = TokenGradient(steps=2, top=8, swaps=8).climb(policy, reward, samples, seed=0)
        >>> bool(reward(found) > reward(samples))
        True
    """

    steps: int = 20
    top: int = 64
    swaps: int = 64
    suffix: int | None = None
    fluency: float = 0.0
    n: int = 1
    keep: int | None = 1
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_counts("TokenGradient", self.n, self.keep)
        suffix = 1 if self.suffix is None else self.suffix
        least = min(self.steps, self.top, self.swaps, suffix, self.batch_size)
        if least < 1 or self.fluency < 0:
            raise InputError(
                "TokenGradient needs steps, top, swaps, suffix and batch_size of at least 1, and "
                f"fluency of at least 0; got {self}."
            )

    def __call__(
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        embedding_parts(reward)  # refuses before anything is drawn
        samples = candidates(policy, prompts, self.n, seed)
        climbed = self.climb(policy, reward, samples, seed)
        return scored_only(highest(with_scores(reward, climbed), self.n, self.keep))

    def climb(self, policy: Generator, reward: Reward, samples: Samples, seed: int) -> Samples:
        """Return the samples with tokens swapped for a higher reward.

        Raises:
            InputError: see above.
        """
        texts = list(texts_of(samples, "TokenGradient"))
        kept = [0] * len(texts)
        if self.suffix is not None:
            kept = [len(text) for text in texts]
            texts = [text + FILLER * self.suffix for text in texts]
        was_training = reward.training
        reward.eval()
        try:
            best = _respelled(policy, samples, texts)
            scores = self._objective(policy, reward, best)
            for step in range(self.steps):
                proposals = self._proposals(reward, best, kept, derive(seed, "swaps", step))
                if proposals:
                    tried = _proposed(policy, samples, proposals)
                    values = self._objective(policy, reward, tried)
                    scores = _improve(texts, scores, proposals, values)
                    best = _respelled(policy, samples, texts)
        finally:
            reward.train(was_training)
        return best

    def _objective(self, policy: Generator, reward: Reward, samples: Samples) -> Tensor:
        """Return what is climbed, float32 [B]: the reward, and κ times the log-probability.

        It is -∞ where the reward does not score a text.
        """
        scores = judged(reward, samples, self.batch_size).scores.nan_to_num(-torch.inf)
        if self.fluency == 0:
            return scores
        if not isinstance(policy, Policy):
            raise InputError(
                f"TokenGradient(fluency={self.fluency:g}) asks the policy for log-probabilities, "
                f"which a {type(policy).__name__} lacks. Give a Policy, or leave fluency out."
            )
        parts = []
        with torch.no_grad():
            for rows in torch.split(torch.arange(len(samples)), self.batch_size):
                seeds = torch.zeros(len(rows), dtype=torch.long)
                trajectory = policy.encode(samples[rows], seeds=seeds)
                log_probs = step_total(policy.log_prob(trajectory), trajectory.mask)
                parts.append(log_probs.cpu())
        return scores + self.fluency * torch.cat(parts)

    def _proposals(
        self, reward: Reward, samples: Samples, kept: Sequence[int], seed: int
    ) -> list[Proposal]:
        """Return the swaps to score, a text's together, that are read as they were made."""
        device = device_of_reward(reward)
        draws = generators(row_seeds(seed, len(samples)))
        proposals: list[Proposal] = []
        row = 0
        for numbers in torch.split(torch.arange(len(samples)), self.batch_size):
            for gains in swap_gains(reward, samples[numbers].to(device)):
                text = str(samples.outputs[row])
                proposals += self._of_row(reward, gains, text, kept[row], row, draws[row])
                row += 1
        return _read_back(reward, samples, proposals)

    def _of_row(
        self,
        reward: Reward,
        gains: Gains,
        text: str,
        kept: int,
        row: int,
        generator: torch.Generator,
    ) -> list[Proposal]:
        """Return the swaps of one text that spell a response."""
        tokenizer = embedding_parts(reward)[0].tokenizer
        response = response_of(tokenizer, gains, text, kept)
        places = range(response.first, response.end)
        proposals = []
        for place, token in self._chosen(gains, places, tokenizer, generator):
            ids = list(gains.ids)
            ids[place] = token
            spelling = spelled(tokenizer, ids[: response.end], gains.start)
            if spelling is not None:
                proposals.append(Proposal(spelling, ids, row))
        return proposals

    def _chosen(
        self, gains: Gains, places: range, tokenizer: Any, generator: torch.Generator
    ) -> list[tuple[int, int]]:
        """Return (place, token) of at most B swaps: half by their gains, half at random."""
        if not places:
            return []
        table = gains.table[places.start : places.stop].clone()
        special = [token for token in tokenizer.all_special_ids if token < table.shape[1]]
        table[:, special] = -torch.inf
        present = torch.tensor(gains.ids[places.start : places.stop])
        table.scatter_(1, present[:, None], -torch.inf)
        top = table.topk(min(self.top, table.shape[1]), dim=1)
        by_gain = top.values.flatten().argsort(descending=True, stable=True)
        half = (self.swaps + 1) // 2
        others = by_gain[half:]
        others = others[torch.randperm(len(others), generator=generator)]
        order = torch.cat([by_gain[:half], others])[: self.swaps]
        chosen = []
        for number in order.tolist():
            place, rank = divmod(number, top.values.shape[1])
            if top.values[place, rank] > -torch.inf:
                chosen.append((places.start + place, int(top.indices[place, rank])))
        return chosen


def _read_back(reward: Reward, samples: Samples, proposals: list[Proposal]) -> list[Proposal]:
    """Return the proposals whose texts are read as the tokens that they were made of."""
    if not proposals:
        return []
    rows = torch.tensor([proposal.row for proposal in proposals])
    texts = _spoken(samples[rows], [proposal.text for proposal in proposals])
    ids = embedding_parts(reward)[0].token_rows(texts).ids
    same = []
    for proposal, tokens in zip(proposals, ids, strict=True):
        if list(tokens) == proposal.ids:
            same.append(proposal)
    return same


def _proposed(policy: Generator, samples: Samples, proposals: list[Proposal]) -> Samples:
    """Return the proposals as samples, a row each."""
    rows = torch.tensor([proposal.row for proposal in proposals])
    return _respelled(policy, samples[rows], [proposal.text for proposal in proposals])


def _improve(texts: list[str], scores: Tensor, proposals: list[Proposal], values: Tensor) -> Tensor:
    """Put each better proposal in its text's place, and return the scores of all texts [B]."""
    scores = scores.clone()
    for number in values.argsort(stable=True).tolist():  # the best last
        text, _, row = proposals[number]
        if values[number] > scores[row]:
            texts[row] = text
            scores[row] = values[number]
    return scores


def _respelled(policy: Generator, samples: Samples, texts: list[str]) -> Samples:
    """Return the samples with other texts; the length of those that differ is measured anew."""
    changed = with_length(policy, _spoken(samples, texts), "TokenGradient")
    if "length" not in samples.facts:
        return changed
    before = samples.facts["length"]
    same = [text == output for text, output in zip(texts, samples.outputs, strict=True)]
    is_same = torch.tensor(same, device=before.device)
    return changed.with_facts(length=torch.where(is_same, before, changed.facts["length"]))


def _spoken(samples: Samples, texts: list[str]) -> Samples:
    """Return the samples with other texts."""
    return Samples(samples.prompts, texts, samples.facts)
