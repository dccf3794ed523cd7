"""The same model, data and batch for TRL's trainers and ours."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

ROWS = 16
PROMPT = 32
RESPONSE = 32
LONGEST = 120  # of a long tail; prompt and response fit the context
VOCABULARY = 8192
WIDTH = 128
LAYERS = 4
SAMPLES = 4  # of a prompt, in RLOO


def tokenizer() -> Any:
    """Return a tokenizer with a word a token, so that lengths are what they are said to be."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<end>": 0, "<pad>": 1}
    for token in range(2, VOCABULARY):
        vocabulary[f"w{token}"] = token
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")


def network(kind: str = "LlamaForCausalLM", context: int = 256, **options: Any) -> Any:
    """Return a small language model with the same weights every time."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=context,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
        **options,
    )
    return getattr(transformers, kind)(config)


def smollm2_135m() -> Any:
    """Return a network of SmolLM2-135M's shape with random weights, the same every time."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config)


def texts(count: int, length: int, seed: int) -> list[str]:
    """Return texts of `length` random words."""
    return texts_of([length] * count, seed)


def texts_of(lengths: Sequence[int], seed: int) -> list[str]:
    """Return a text of random words for each length."""
    generator = random.Random(seed)
    lines = []
    for length in lengths:
        tokens = [f"w{generator.randrange(2, VOCABULARY)}" for _ in range(length)]
        lines.append(" ".join(tokens))
    return lines


def tailed(count: int, seed: int) -> list[int]:
    """Return lengths with a long tail: log-normal, median 32, deviation 0.8 of the logarithm."""
    generator = random.Random(seed)
    lengths = []
    for _ in range(count):
        length = round(generator.lognormvariate(math.log(RESPONSE), 0.8))
        lengths.append(min(max(length, 4), LONGEST))
    return lengths


def pairs(count: int, is_tailed: bool = False, tokens: int = RESPONSE) -> Any:
    """Return preference pairs of random texts, of one length or of lengths with a long tail."""
    from rewardlab import PreferencePairs, Samples

    prompt_lengths = tailed(count, 3) if is_tailed else [tokens] * count
    chosen_lengths = tailed(count, 4) if is_tailed else [tokens] * count
    rejected_lengths = tailed(count, 5) if is_tailed else [tokens] * count
    prompts = texts_of(prompt_lengths, 0)
    chosen = Samples(prompts, texts_of(chosen_lengths, 1))
    rejected = Samples(prompts, texts_of(rejected_lengths, 2))
    return PreferencePairs(chosen, rejected)


def adamw() -> Any:
    """Return a factory of the optimiser."""
    import torch

    return partial(torch.optim.AdamW, lr=1e-4)
