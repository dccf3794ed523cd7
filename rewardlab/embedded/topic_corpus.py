"""The corpus of the world of Python's help topics, its tokenizer and its prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rewardlab.embedded.cache import cached
from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.seeds import derive, row_seeds
from rewardlab.testing.tiny_text import END, PAD

Array = np.ndarray
PACKAGES = ("torch", "transformers", "rewardlab")
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
        >>> bpe = tokenizer()
        >>> len(bpe), bpe.decode(bpe(" an expression").input_ids)
        (768, ' an expression')
    """
    folder = cached_topics("topics-tokenizer", {"vocabulary": VOCABULARY}, _train_tokenizer)
    return _tokenizer(folder)


def prompts(part: Literal["train", "held_out"] = "train", n: int | None = None) -> list[str]:
    """Return texts of 8 tokens from the corpus, all different, in a fixed random order.

    Every fifth place of the corpus is held out.

    Args:
        part: "train" has 5,000 or so, "held_out" a quarter of that; no prompt is in both.
        n: number of prompts; all by default.

    Raises:
        InputError: if there are fewer.

    Example:
        >>> len(prompts("train", 3)), set(prompts("train")) & set(prompts("held_out"))
        (3, set())
    """
    texts = _prompts()[part]
    if n is not None and n > len(texts):
        raise InputError(
            f'The topics have {len(texts)} prompts in "{part}"; got n={n}. Take fewer.'
        )
    return texts[:n]


def cached_topics(name: str, settings: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """Return `cache.cached` of what depends on the corpus too."""
    inputs = {"corpus": fingerprint(corpus()), "tokenizers": version("tokenizers")}
    return cached(name, settings | inputs, PACKAGES, make)


def _train_tokenizer(folder: Path) -> None:
    """Train the tokenizer on the corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([corpus()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)
    fast.save_pretrained(folder)


@cache
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@cache
def corpus_tokens() -> Array:
    """Return the corpus as tokens, int64 [N]."""
    return np.array(tokenizer()(corpus()).input_ids)


@cache
def _prompts() -> dict[str, list[str]]:
    """Return the prompts of each part: the first tokens of chunks of the corpus."""
    texts = _chunk_starts()
    order = row_seeds(derive(0, "topics prompts"), len(texts)).argsort()
    parts: dict[str, list[str]] = {"train": [], "held_out": []}
    taken = set()
    for row in order.tolist():
        text = texts[row]
        if text is None or text in taken:
            continue
        part = "held_out" if row % 5 == 4 else "train"
        parts[part].append(text)
        taken.add(text)
    return parts


def _chunk_starts() -> list[str | None]:
    """Return the first 8 tokens of each chunk as text.

    It is None where they are not tokenized as they were cut, so that no prompt begins or ends
    within a character.
    """
    bpe = tokenizer()
    tokens = corpus_tokens()
    starts = range(0, len(tokens) - CHUNK, CHUNK)
    chunks = [tokens[start : start + PROMPT].tolist() for start in starts]
    texts = bpe.batch_decode(chunks, clean_up_tokenization_spaces=False)
    whole_texts: list[str | None] = []
    for text, chunk, again in zip(texts, chunks, bpe(texts).input_ids, strict=True):
        whole_texts.append(text if again == chunk else None)
    return whole_texts
