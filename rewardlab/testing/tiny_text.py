"""Tiny language models from a seed, for tests and examples; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch

END = "<|end|>"
PAD = "<|pad|>"
START = "<|start|>"
CHAT = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
VOCABULARY = 259  # 256 bytes and three marks


def tiny_tokenizer(chat: bool = False, pad: bool = True) -> Any:
    """Return a transformers tokenizer over single bytes.

    Its tokens are the 256 bytes, then the marks <|end|>, <|pad|> and <|start|>. Every text is 1
    token a byte of its UTF-8. <|start|> is its beginning-of-sequence token, but it is not put
    before a text.

    Args:
        chat: whether it has a chat template ("user: …", then "assistant: ").
        pad: whether it names a padding token.

    Example:
        >>> tiny_tokenizer()("héllo").input_ids
        [104, 195, 169, 108, 108, 111]
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = [symbol for _, symbol in sorted(bytes_to_unicode().items())]
    numbers = {symbol: byte for byte, symbol in enumerate(symbols)}
    byte_level = Tokenizer(models.BPE(numbers, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens([END, PAD, START])
    marks = {"eos_token": END, "bos_token": START}
    if pad:
        marks["pad_token"] = PAD
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level, **marks)
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def tiny_causal_lm(
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    width: int = 32,
    layers: int = 2,
    context: int = 64,
    scale: float = 0.3,
) -> Any:
    """Return a transformers LlamaForCausalLM with random weights, for `tiny_tokenizer`.

    Args:
        seed: seed of the weights.
        vocabulary: number of tokens. Its configuration names the three marks if it has all 259.
        width: width of the hidden states, in two heads.
        layers: number of blocks.
        context: number of positions.
        scale: standard deviation of the weights; the larger, the more peaked its distributions.

    Example:
        >>> tiny_causal_lm()(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 259])
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    has_marks = vocabulary == VOCABULARY
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=scale,
        eos_token_id=256 if has_marks else None,
        pad_token_id=257 if has_marks else None,
        bos_token_id=258 if has_marks else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LlamaForCausalLM(config).eval()
