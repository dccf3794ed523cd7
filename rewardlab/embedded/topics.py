"""Python's help topics as an Adv-RM world: English text, a policy, a counted gold, and members.

The corpus ships with Python: `pydoc_data.topics`, 465,000 characters in Python 3.11. Another
Python's corpus differs, and so do all figures. What is trained here is kept in `$REWARDLAB_CACHE`
(`.cache/rewardlab` in the home folder by default) under a hash of its settings and versions. The
network is small enough that one thread is fastest: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from rewardlab.conversations import Prompt, text_prompts
from rewardlab.data.preferences import Preferences
from rewardlab.embedded.gold import WittenBell
from rewardlab.embedded.topic_corpus import (
    RESPONSE,
    VOCABULARY,
    cached_topics,
    corpus,
    corpus_tokens,
    prompts,
    tokenizer,
)
from rewardlab.embedded.topic_training import Family, train_base, train_member
from rewardlab.errors import InputError
from rewardlab.evaluation.prompts import in_turn
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.provenance import fingerprint
from rewardlab.rewards.base import Reward
from rewardlab.rewards.language import LanguageReward
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.samples import load_pairs, save_pairs
from rewardlab.types import PreferencePairs, Samples, concatenate, texts_of

Array = np.ndarray
LEAST = -7.0  # log-probability of a token in gold, and score of an empty response
DRAWS = 256  # responses that are drawn at a time

__all__ = [
    "Gold",
    "base_policy",
    "clean_pairs",
    "corpus",
    "member",
    "member_reward",
    "preferences",
    "prompts",
    "tokenizer",
]


def base_policy(
    train_steps: int = 700,
    max_new_tokens: int = RESPONSE,
    value_head: bool = False,
    seed: int = 0,
    family: Family = "llama",
) -> CausalLMPolicy:
    """Return a Llama of 2 layers, 64 wide, trained on the corpus; 0.2 million parameters.

    Or a network of another family, of the same width and depth, trained on other chunks of it.

    Args:
        train_steps: optimizer steps of 32 chunks of 24 tokens, learning rate 3e-3 along a cosine.
        max_new_tokens: limit of a response.
        value_head: see `CausalLMPolicy`.
        seed: seed of weights and data order.
        family: "llama" or "gpt2".

    Raises:
        InputError: if the family is another.
    """
    if family not in get_args(Family):
        raise InputError(f'The topics have base policies "llama" and "gpt2"; got {family!r}.')
    settings: dict[str, object] = {"train_steps": train_steps, "seed": seed}
    if family != "llama":
        settings["family"] = family
    train = partial(train_base, train_steps=train_steps, seed=seed, family=family)
    folder = cached_topics("topics-base", settings, train)
    return CausalLMPolicy(folder / "policy", max_new_tokens=max_new_tokens, value_head=value_head)


class Gold(Reward):
    """The judge, which nothing trains on: likely under the corpus, not repetitive, and of words.

    The score is the mean over the response's tokens of log p after the three tokens before it (a
    4-gram `WittenBell` of the corpus; each at least -7). Subtracted are 4 times the share of its
    bigrams and 2 times the share of its tokens that occurred in it before. Added is 2 times the
    share of tokens with a letter, of which 0.7 is enough. An empty response gets -7.

    Example:
        >>> gold = Gold()
        >>> text = " statement is executed, the expression"
        >>> samples = Samples(["When the"] * 3, [text, " of of of of of", "\\n\\n***\\n\\n"])
        >>> gold(samples).argsort(descending=True).tolist()
        [0, 2, 1]
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = tokenizer()
        self.model = _ngram_model()
        self.letters = _tokens_with_letters()

    def forward(self, samples: Samples) -> Tensor:
        """Return the score of each response, float32 [B]."""
        texts = texts_of(samples, "Gold")
        if not texts:
            return torch.zeros(0)
        responses = self.tokenizer(list(texts)).input_ids
        grams = self._grams(samples.prompts, responses)
        lengths = np.array([len(tokens) for tokens in responses])
        divisors = lengths.clip(min=1)
        row_of = np.repeat(np.arange(len(responses)), lengths)
        log_prob = self.model.log_prob(grams).clip(min=LEAST)
        likelihood = np.bincount(row_of, log_prob, len(responses)) / divisors
        letters = np.bincount(row_of, self.letters[grams[:, -1]], len(responses)) / divisors
        repeats = np.array([_repetition(tokens) for tokens in responses])
        scores = likelihood - repeats + 2 * letters.clip(max=0.7)
        return torch.from_numpy(np.where(lengths > 0, scores, LEAST)).float()

    def _grams(self, prompts: Sequence[Prompt], responses: list[list[int]]) -> Array:
        """Return the 4-grams that end with each token of each response, int64 [N, 4]."""
        contexts = self.tokenizer(text_prompts(prompts, "Gold")).input_ids
        parts = []
        for context, tokens in zip(contexts, responses, strict=True):
            parts.append(_grams(context[-3:], tokens))
        return np.concatenate(parts)


def preferences(n: int = 1000, seed: int = 0, train_steps: int = 700) -> PreferencePairs:
    """Return n pairs of the base policy's responses to training prompts, labeled by gold.

    1,000 pairs take 2 seconds.

    Args:
        n: number of pairs. Beyond the number of prompts, these come again with other responses.
        seed: seed of the responses.
        train_steps: training steps of the base policy.
    """
    policy = base_policy(train_steps)
    settings = {"n": n, "seed": seed, "policy": fingerprint(policy)}
    draw = partial(_draw_pairs, policy=policy, n=n, seed=seed)
    folder = cached_topics("topics-pairs", settings, draw)
    return load_pairs(folder / "pairs")


def clean_pairs(
    n: int = 1000, held_out: int = 128, batch_size: int = 32, seed: int = 0, train_steps: int = 700
) -> Preferences:
    """Return `preferences` as the data of Adv-RM's rounds, with held-out pairs.

    Args:
        n: number of pairs to train on.
        held_out: number of further pairs that are held out, with prompts of their own.
        batch_size: pairs a step.
        seed: seed of the responses and of the split.
        train_steps: training steps of the base policy.
    """
    pairs = preferences(n + held_out, seed, train_steps)
    return Preferences(pairs, held_out=held_out, batch_size=batch_size, seed=seed)


def member(
    seed: int = 0, frozen: bool = False, train_steps: int = 700, family: Family = "llama"
) -> LanguageReward:
    """Return an untrained reward: a base policy's backbone with a new head on the mean state.

    Args:
        seed: seed of the head.
        frozen: train the head alone, on cached features. All such members share one backbone in
            memory.
        train_steps: training steps of the base policy.
        family: of the base policy; members of two families differ in what they knew before.
    """
    if frozen:
        policy = _shared_base(train_steps, family)
    else:
        policy = base_policy(train_steps, family=family)
    return LanguageReward(
        policy.network, policy.tokenizer, frozen=frozen, pooling="mean", seed=seed
    )


def member_reward(
    seed: int = 0,
    pairs: int | PreferencePairs = 1000,
    extra: PreferencePairs | None = None,
    frozen: bool = False,
    epochs: int = 2,
    learning_rate: float = 1e-3,
    train_steps: int = 700,
    family: Family = "llama",
    pairs_seed: int = 0,
) -> LanguageReward:
    """Return a member that was trained on preference pairs, in evaluation mode.

    Training starts from the base policy's weights.

    Args:
        seed: seed of the head, the pairs' order and the bootstrap: what makes members differ.
        pairs: clean pairs, or the number of `preferences` to take.
        extra: adversarial pairs beside them.
        frozen: train the head alone; 10 epochs at 1e-2 suit it.
        epochs: passes over the pairs.
        learning_rate: learning rate of AdamW, constant.
        train_steps: training steps of the base policy.
        family: of the member's backbone; the pairs are the Llama's.
        pairs_seed: seed of the responses in `preferences`, where only a number of pairs is given.
    """
    clean = preferences(pairs, pairs_seed, train_steps) if isinstance(pairs, int) else pairs
    settings = {
        "seed": seed,
        "frozen": frozen,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "policy": fingerprint(base_policy(train_steps, family=family)),
        "pairs": fingerprint(clean),
        "extra": fingerprint(extra),
    }
    train = partial(
        train_member,
        untrained=partial(member, seed, frozen, train_steps, family),
        data=Preferences(clean, extra=extra, held_out=0, seed=seed),
        seed=seed,
        epochs=epochs,
        learning_rate=learning_rate,
    )
    folder = cached_topics("topics-member", settings, train)
    return LanguageReward.from_pretrained(folder / "reward")


@cache
def _shared_base(train_steps: int, family: Family) -> CausalLMPolicy:
    """Return the base policy whose network frozen members share; nothing trains it."""
    return base_policy(train_steps, family=family)


@cache
def _ngram_model() -> WittenBell:
    """Return the 4-gram model of the corpus."""
    return WittenBell(corpus_tokens(), len(tokenizer()))


@cache
def _tokens_with_letters() -> Array:
    """Return 1 for each token that has a letter, else 0: float64 [V]."""
    bpe = tokenizer()
    letters = np.zeros(len(bpe))
    for token in range(len(bpe)):
        if any(letter.isalpha() for letter in bpe.decode([token])):
            letters[token] = 1
    letters[bpe.all_special_ids] = 0
    return letters


def _grams(context: list[int], tokens: list[int]) -> Array:
    """Return the 4-grams [T, 4] that end with each token of a response.

    Args:
        context: at most three tokens before the response.
        tokens: the response's T tokens.
    """
    absent = [VOCABULARY] * (3 - len(context))
    row = [*absent, *context, *tokens]
    grams = [row[end - 4 : end] for end in range(4, len(row) + 1)]
    return np.array(grams, dtype=np.int64).reshape(-1, 4)


def _repetition(tokens: list[int]) -> float:
    """Return what a response loses for bigrams and tokens that occurred in it before."""
    bigrams = list(pairwise(tokens))
    return 4 * _repeated_share(bigrams) + 2 * _repeated_share(tokens)


def _repeated_share(items: Sequence[Hashable]) -> float:
    """Return the share of items that occurred before."""
    if not items:
        return 0.0
    return 1 - len(set(items)) / len(items)


@torch.no_grad()
def _draw_pairs(folder: Path, policy: CausalLMPolicy, n: int, seed: int) -> None:
    """Draw two responses to each of n prompts, and put the one that gold prefers first."""
    row_prompts = in_turn(prompts("train"), n)
    gold = Gold()
    one = _draw(policy, row_prompts, derive(seed, "topics pairs", 0))
    other = _draw(policy, row_prompts, derive(seed, "topics pairs", 1))
    one_is_better = gold(one) >= gold(other)
    chosen = []
    rejected = []
    for first, second, better in zip(one.outputs, other.outputs, one_is_better, strict=True):
        chosen.append(first if better else second)
        rejected.append(second if better else first)
    pairs = PreferencePairs(
        chosen=Samples(one.prompts, chosen),
        rejected=Samples(one.prompts, rejected),
    )
    save_pairs(folder / "pairs", pairs)


def _draw(policy: CausalLMPolicy, row_prompts: list[Prompt], seed: int) -> Samples:
    """Return one response to each prompt, drawn 256 at a time."""
    seeds = row_seeds(seed, len(row_prompts))
    parts = []
    for start in range(0, len(row_prompts), DRAWS):
        rows = slice(start, start + DRAWS)
        parts.append(policy.generate(row_prompts[rows], seeds=seeds[rows]))
    samples: Samples = concatenate(parts)
    return samples
