"""Python's help topics as an Adv-RM world: English that ships with Python, a policy, a gold that is
counted, and members.

The corpus is `pydoc_data.topics` (465,000 characters in Python 3.11; another Python's differ, and
so do all figures). What is trained here is kept in `$REWARDLAB_CACHE` (`.cache/rewardlab` in the
home folder by default) under a hash of its settings and versions. The network is small enough that
one thread is fastest: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from rewardlab.data.preferences import Preferences
from rewardlab.embedded.cache import cached
from rewardlab.embedded.gold import WittenBell
from rewardlab.errors import InputError
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.provenance import fingerprint
from rewardlab.rewards.base import Reward
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.rules import texts_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.samples import load_pairs, save_pairs
from rewardlab.testing.tiny_text import END, PAD
from rewardlab.training.adv_rm import AdvRM
from rewardlab.types import PreferencePairs, Samples, concatenate

Array = np.ndarray
VOCABULARY = 768
PROMPT = 8
RESPONSE = 16
CHUNK = PROMPT + RESPONSE


@cache
def corpus() -> str:
    """Return Python's help topics as one text.

    Example:
        >>> corpus()[:22]
        'The "assert" statement'
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def tokenizer() -> Any:
    """Return the byte-level BPE tokenizer of 768 tokens that was trained on the corpus.

    Example:
        >>> known = tokenizer()
        >>> len(known), known.decode(known(" an expression").input_ids)
        (768, ' an expression')
    """
    return _tokenizer(_cached("topics-tokenizer", {"vocabulary": VOCABULARY}, _train_tokenizer))


def prompts(part: Literal["train", "held_out"] = "train", n: int | None = None) -> list[str]:
    """Return texts of 8 tokens from the corpus, all different: every fifth place is held out. Both
    are in a fixed random order.

    Args:
        part: "train" has 5,000 or so, "held_out" a quarter of that; no prompt is in both.
        n: how many; all by default.

    Raises:
        InputError: if there are fewer.

    Example:
        >>> len(prompts("train", 3)), set(prompts("train")) & set(prompts("held_out"))
        (3, set())
    """
    found = _prompts()[part]
    if n is not None and n > len(found):
        raise InputError(
            f'The topics have {len(found)} prompts in "{part}"; got n={n}. Take fewer.'
        )
    return found[:n]


def base_policy(
    train_steps: int = 700, max_new_tokens: int = RESPONSE, value_head: bool = False, seed: int = 0
) -> CausalLMPolicy:
    """Return a Llama of 2 layers, 64 wide, trained on the corpus; 0.2 million parameters.

    Args:
        train_steps: optimiser steps of 32 chunks of 24 tokens, learning rate 3e-3 along a cosine.
        max_new_tokens: limit of a response.
        value_head: see `CausalLMPolicy`.
        seed: of weights and data order.
    """
    settings = {"train_steps": train_steps, "seed": seed}
    folder = _cached("topics-base", settings, lambda folder: _train_base(folder, **settings))
    return CausalLMPolicy(folder / "policy", max_new_tokens=max_new_tokens, value_head=value_head)


class Gold(Reward):
    """How good a response is: likely under the corpus, not repetitive, and of words. The judge,
    which nothing trains on.

    The mean over the response's tokens of log p after the three tokens before it (a 4-gram
    `WittenBell` of the corpus; each at least -7), less 4 times the share of its bigrams and 2 times
    the share of its tokens that stood in it before, plus 2 times the share of tokens with a letter,
    of which 0.7 is enough. An empty response gets -7.

    Example:
        >>> gold = Gold()
        >>> outputs = [" statement is executed, the expression", " of of of of of", "\\n\\n***\\n\\n"]
        >>> gold(Samples(["When the"] * 3, outputs)).argsort(descending=True).tolist()
        [0, 2, 1]
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer, self.model, self.letters = _judge()

    def forward(self, samples: Samples) -> Tensor:
        """Return the score of each response, float32 [B]."""
        texts = texts_of(samples, "Gold")
        if not texts:
            return torch.zeros(0)
        before, rows = (self.tokenizer(list(part)).input_ids for part in (samples.prompts, texts))
        lengths = np.array([len(row) for row in rows])
        grams = np.concatenate(
            [_grams(first[-3:], row) for first, row in zip(before, rows, strict=True)]
        )
        row_of = np.repeat(np.arange(len(rows)), lengths)
        likely = np.bincount(row_of, self.model.log_prob(grams).clip(min=-7), len(rows))
        words = np.bincount(row_of, self.letters[grams[:, -1]], len(rows)) / lengths.clip(min=1)
        repeats = np.array(
            [[4 * _repeated(list(pairwise(row))), 2 * _repeated(row)] for row in rows]
        ).sum(1)
        scores = likely / lengths.clip(min=1) - repeats + 2 * words.clip(max=0.7)
        return torch.from_numpy(np.where(lengths > 0, scores, -7.0)).float()


def preferences(n: int = 1000, seed: int = 0, train_steps: int = 700) -> PreferencePairs:
    """Return n pairs of the base policy's responses, each to a training prompt, labelled by gold.
    1,000 take 2 seconds.

    Args:
        n: how many. Beyond the number of prompts, these come again with other responses.
        seed: of the responses.
        train_steps: of the base policy.
    """
    policy = base_policy(train_steps)
    settings = {"n": n, "seed": seed, "policy": fingerprint(policy)}
    return load_pairs(
        _cached("topics-pairs", settings, lambda folder: _draw_pairs(folder, policy, n, seed))
        / "pairs"
    )


def clean_pairs(
    n: int = 1000, held_out: int = 128, batch_size: int = 32, seed: int = 0, train_steps: int = 700
) -> Preferences:
    """Return `preferences` as the data of Adv-RM's rounds: n to train on and, with prompts of their
    own, others held out.
    """
    pairs = preferences(n + held_out, seed, train_steps)
    return Preferences(pairs, held_out=held_out, batch_size=batch_size, seed=seed)


def member(seed: int = 0, frozen: bool = False, train_steps: int = 700) -> LanguageReward:
    """Return a reward that is yet to be trained: the base policy's backbone with a new head on the
    response's mean state.

    Args:
        seed: of the head.
        frozen: train the head alone, on cached features; all such members stand on one backbone in
            memory.
        train_steps: of the base policy.
    """
    policy = _shared_base(train_steps) if frozen else base_policy(train_steps)
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
) -> LanguageReward:
    """Return a member that was trained on preference pairs from the base policy's weights, in
    evaluation mode.

    Args:
        seed: of the head, the pairs' order and the bootstrap: what makes members differ.
        pairs: clean pairs, or how many of `preferences`.
        extra: adversarial pairs beside them.
        frozen: train the head alone; 10 epochs at 1e-2 suit it.
        epochs: passes over the pairs.
        learning_rate: of AdamW, constant.
        train_steps: of the base policy.
    """
    clean = preferences(pairs, train_steps=train_steps) if isinstance(pairs, int) else pairs
    settings = {"seed": seed, "frozen": frozen, "epochs": epochs, "learning_rate": learning_rate}
    inputs = {
        "policy": fingerprint(base_policy(train_steps)),
        "pairs": fingerprint(clean),
        "extra": fingerprint(extra),
    }
    train = partial(_train_member, clean=clean, extra=extra, train_steps=train_steps, **settings)
    return LanguageReward.from_pretrained(
        _cached("topics-member", settings | inputs, train) / "reward"
    )


@cache
def _shared_base(train_steps: int) -> CausalLMPolicy:
    """The base policy whose network frozen members share; nothing trains it."""
    return base_policy(train_steps)


def _cached(name: str, settings: dict[str, Any], make: Callable[[Path], None]) -> Path:
    of = {"corpus": fingerprint(corpus()), "tokenizers": _version("tokenizers")}
    return cached(name, settings | of, ("torch", "transformers", "rewardlab"), make)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _train_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator([corpus()], trainer)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=PAD).save_pretrained(
        folder
    )


@cache
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@cache
def _tokens() -> Array:
    return np.array(tokenizer()(corpus()).input_ids)


@cache
def _prompts() -> dict[str, list[str]]:
    """Chunks' first tokens that are tokenized as they were cut, so that none begins or ends within
    a character.
    """
    known = tokenizer()
    starts = range(0, len(_tokens()) - CHUNK, CHUNK)
    chunks = [_tokens()[start : start + PROMPT].tolist() for start in starts]
    texts = known.batch_decode(chunks, clean_up_tokenization_spaces=False)
    whole = [again == chunk for again, chunk in zip(known(texts).input_ids, chunks, strict=True)]
    order = row_seeds(derive(0, "topics prompts"), len(chunks)).argsort().tolist()
    parts: dict[str, list[str]] = {"train": [], "held_out": []}
    seen: set[str] = set()
    for row in order:
        if whole[row] and texts[row] not in seen:
            parts["held_out" if row % 5 == 4 else "train"].append(texts[row])
            seen.add(texts[row])
    return parts


@cache
def _judge() -> tuple[Any, WittenBell, Array]:
    known = tokenizer()
    symbols = [known.decode([token]) for token in range(len(known))]
    letters = np.array(
        [any(letter.isalpha() for letter in symbol) for symbol in symbols], dtype=float
    )
    letters[known.all_special_ids] = 0
    return known, WittenBell(_tokens(), len(known)), letters


def _grams(before: list[int], row: list[int]) -> Array:
    """The 4-grams [T, 4] that end with each token of a response."""
    known = [*[VOCABULARY] * (3 - len(before)), *before, *row]
    return np.array(
        [known[end - 4 : end] for end in range(4, len(known) + 1)], dtype=np.int64
    ).reshape(-1, 4)


def _repeated(things: list[Any]) -> float:
    """The share of things that stood before."""
    return 1 - len(set(things)) / max(len(things), 1) if things else 0.0


def _train_base(folder: Path, train_steps: int, seed: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    known = tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, eos_token_id=known.eos_token_id, pad_token_id=known.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "topics base"))
        network = LlamaForCausalLM(config)
    tokens = torch.from_numpy(_tokens())
    noise = torch.Generator().manual_seed(derive(seed, "topics chunks"))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, train_steps)
    for _ in range(train_steps):
        rows = torch.randint(len(tokens) - CHUNK, (32, 1), generator=noise) + torch.arange(CHUNK)
        loss = network(input_ids=tokens[rows], labels=tokens[rows], use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    CausalLMPolicy(network, known, max_new_tokens=RESPONSE).save_pretrained(folder / "policy")


@torch.no_grad()
def _draw_pairs(folder: Path, policy: CausalLMPolicy, n: int, seed: int) -> None:
    gold = Gold()
    known = prompts("train")
    order = torch.arange(n) % len(known)
    halves = []
    for side in (0, 1):
        seeds = row_seeds(derive(seed, "topics pairs", side), n)
        parts = [
            policy.generate([known[row] for row in rows], seeds=seeds[i * 256 :][: len(rows)])
            for i, rows in enumerate(order.split(256))
        ]
        halves.append(concatenate(parts))
    first = gold(halves[0]) >= gold(halves[1])
    texts = [
        (a, b) if better else (b, a)
        for a, b, better in zip(halves[0].outputs, halves[1].outputs, first, strict=True)
    ]
    chosen, rejected = (list(side) for side in zip(*texts, strict=True))
    save_pairs(
        folder / "pairs",
        PreferencePairs(Samples(halves[0].prompts, chosen), Samples(halves[0].prompts, rejected)),
    )


def _train_member(
    folder: Path,
    clean: PreferencePairs,
    extra: PreferencePairs | None,
    seed: int,
    frozen: bool,
    epochs: int,
    learning_rate: float,
    train_steps: int,
) -> None:
    module = AdvRM(
        member(seed, frozen, train_steps),
        optimizer=lambda weights: torch.optim.AdamW(weights, learning_rate),
        seed=seed,
    )
    trainer = Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        limit_val_batches=0, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, Preferences(clean, extra=extra, held_out=0, seed=seed))
    module.reward.save_pretrained(folder / "reward")
