"""Responses of a language model: what ends them, and which are too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.chat import decoded

Tokens = list[list[int]]


def end_tokens(network: Any, tokenizer: Any, turn_end: int | None = None) -> list[int]:
    """Return the tokens that end a response; the first marks the end of an encoded response.

    They are the token with which the chat template ends the assistant's turn, the tokenizer's end
    token, and those that the model's generation settings list beside these.

    Args:
        network: of transformers.
        tokenizer: of transformers.
        turn_end: the template's token, None where there is none.

    Raises:
        InputError: if none of the three names any.
    """
    settings = getattr(network, "generation_config", None)
    listed = getattr(settings, "eos_token_id", None) or []
    if isinstance(listed, int):
        listed = [listed]
    named = [token for token in (turn_end, tokenizer.eos_token_id) if token is not None]
    if not named and not listed:
        raise InputError(
            "The tokenizer has no end token and the model names none; set tokenizer.eos_token."
        )
    if named and not set(named) & set(listed):
        listed = []  # defaults of a config that knows nothing of this tokenizer
    return list(dict.fromkeys([*named, *listed]))


def until_stop(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first stop string.

    Example:
        >>> until_stop("yes. User: no", ["User:", "."])
        'yes'
    """
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


def fits(prompts: Sequence[Sequence[int]], lengths: Sequence[int], limit: int | None) -> list[bool]:
    """Tell of each row whether its prompt and its response have at most `limit` tokens.

    Args:
        prompts: tokens of B prompts.
        lengths: number of tokens of each response.
        limit: most tokens of a row, None for no limit.
    """
    rows = zip(prompts, lengths, strict=True)
    return [limit is None or len(prompt) + length <= limit for prompt, length in rows]


def check_fit(
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    texts: Sequence[Prompt],
    limit: int | None,
    numbers: Sequence[int] | None = None,
) -> None:
    """Make sure that each prompt and its response are short enough together.

    Args:
        prompts: tokens of B prompts.
        lengths: number of tokens of each response.
        texts: B texts by which the error names a row.
        limit: most tokens of a row, None for no limit.
        numbers: of the rows in their data set, for the error; by default in this batch.

    Raises:
        InputError: if a row does not fit.
    """
    fitting = fits(prompts, lengths, limit)
    if all(fitting):
        return
    place = fitting.index(False)
    number = place if numbers is None else numbers[place]
    text = str(texts[place])
    start = repr(text[:40]) + " …" * (len(text) > 40)
    raise InputError(
        f"Row {number}, {start}, has {len(prompts[place])} tokens of prompt and needs "
        f"{lengths[place]} for its response; max_length or the model's context is {limit} "
        f"({fitting.count(False)} of {len(fitting)} rows here are too long). Shorten or drop them."
    )
