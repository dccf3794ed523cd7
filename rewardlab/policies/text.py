"""Texts as tokens of a language model: prompts, responses and their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewardlab.conversations import Prompt, messages_of, text_prompts
from rewardlab.errors import InputError

Tokens = list[list[int]]


def end_tokens(network: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a response; the first marks the end of an encoded response.

    They are the tokenizer's end token, and those that the model's generation settings list beside
    it.

    Raises:
        InputError: if neither names any.
    """
    settings = getattr(network, "generation_config", None)
    listed = getattr(settings, "eos_token_id", None) or []
    if isinstance(listed, int):
        listed = [listed]
    end = tokenizer.eos_token_id
    if end is None:
        if not listed:
            raise InputError(
                "The tokenizer has no end token and the model names none; set tokenizer.eos_token."
            )
        end = listed[0]
    if end not in listed:
        return [end]
    others = [token for token in listed if token != end]
    return [end, *others]


def prompt_tokens(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return the tokens of a prompt, at least one.

    With a chat template the prompt is one user message, else it is the text.
    """
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            messages_of(prompt), add_generation_prompt=True, tokenize=False
        )
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    (text,) = text_prompts([prompt], "A tokenizer without a chat template")
    tokens = list(tokenizer(text).input_ids)
    if tokens and tokens[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
        tokens = tokens[:-1]
    if tokens:
        return tokens
    if tokenizer.bos_token_id is None:
        return [tokenizer.eos_token_id]
    return [tokenizer.bos_token_id]


def response_tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a response, without special ones."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def response_text(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """Return the text of a response, without special tokens, up to the first stop string."""
    text = decoded(tokenizer, tokens)
    end = len(text)
    for stop_string in stop:
        start = text.find(stop_string)
        if start >= 0:
            end = min(end, start)
    return text[:end]


def completes(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> bool:
    """Return whether the last of `tokens` completed a stop string.

    Only the last tokens are decoded: a character is at most 4 of them.
    """
    if not stop:
        return False
    longest = max(map(len, stop))
    tail = decoded(tokenizer, tokens[-4 * longest - 4 :])
    return any(stop_string in tail for stop_string in stop)


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of tokens, without special ones, exactly as the tokenizer spells it."""
    text: str = tokenizer.decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def check_fit(
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    texts: Sequence[str],
    context: int | None,
) -> None:
    """Make sure that each prompt and its response fit the context together.

    Args:
        prompts: tokens of B prompts.
        lengths: number of tokens of each response.
        texts: B strings by which the error names a row.
        context: number of the model's positions, None for no limit.

    Raises:
        InputError: if a row does not fit.
    """
    if context is None:
        return
    rows = zip(prompts, lengths, texts, strict=True)
    for number, (prompt, length, text) in enumerate(rows):
        if len(prompt) + length > context:
            start = repr(text[:40]) + " …" * (len(text) > 40)
            raise InputError(
                f"Row {number}, {start}, has {len(prompt)} tokens of prompt and needs {length} for "
                f"its response; the model's context is {context}. Shorten or drop it."
            )
