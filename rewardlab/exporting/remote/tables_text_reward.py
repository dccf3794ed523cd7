"""From conversations to the token tables that an exported reward of texts takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Messages = Sequence[dict[str, str]]


class Row(NamedTuple):
    """Tokens of a conversation, and where in them the response starts."""

    ids: list[int]
    start: int


def tables(tokenizer: Any, conversations: Sequence[Messages]) -> dict[str, Tensor]:
    """Return "input_ids", "attention_mask" and "response_mask", int64 [B, T], padded on the right.

    A row that is longer than the reward's context, the tokenizer's `model_max_length`, loses the
    prompt's first tokens, but for a begin-of-text token.

    Args:
        tokenizer: of the reward's folder.
        conversations: B lists of messages with "role" and "content"; the last is the response.

    Raises:
        ValueError: if a response alone is longer than the context.
    """
    rows = [cut(row_of(tokenizer, messages), tokenizer) for messages in conversations]
    shape = (len(rows), max(len(row.ids) for row in rows))
    input_ids = torch.full(shape, tokenizer.pad_token_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    response_mask = torch.zeros(shape, dtype=torch.long)
    for number, row in enumerate(rows):
        end = len(row.ids)
        input_ids[number, :end] = torch.tensor(row.ids)
        attention_mask[number, :end] = 1
        response_mask[number, row.start : end] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "response_mask": response_mask,
    }


def row_of(tokenizer: Any, messages: Messages) -> Row:
    """Return a conversation's tokens; those that the prompt alone has too are the prompt's."""
    ids = token_ids(tokenizer, messages, awaits=False)
    prompt = token_ids(tokenizer, messages[:-1], awaits=True)
    start = 0
    for token, other in zip(ids, prompt):  # noqa: B905, the shorter one ends
        if token != other:
            break
        start += 1
    return Row(ids, min(start, len(ids) - 1))


def token_ids(tokenizer: Any, messages: Messages, awaits: bool) -> list[int]:
    """Return the tokens of messages, up to where a response begins if one is awaited."""
    if tokenizer.chat_template is None:
        text = "".join(message["content"] for message in messages)
        end = "" if awaits else tokenizer.eos_token or ""
        return list(tokenizer(text + end)["input_ids"])
    encoded = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=awaits, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def cut(row: Row, tokenizer: Any) -> Row:
    """Return a row that fits the context."""
    limit = tokenizer.model_max_length
    response = len(row.ids) - row.start
    if len(row.ids) <= limit:
        return row
    if response > limit:
        raise ValueError(
            f"A response has {response} tokens, and this reward sees {limit}. Shorten it."
        )
    begins = row.start > 0 and row.ids[0] == tokenizer.bos_token_id and response < limit
    first = row.ids[:1] if begins else []
    room = limit - len(first)
    return Row(first + row.ids[len(row.ids) - room :], limit - response)
