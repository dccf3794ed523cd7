"""From (prompt, response) to token ids: one way, for training and for scoring."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from rewardlab.conversations import Prompt, messages_of, text_prompts
from rewardlab.errors import InputError
from rewardlab.rewards.base import named_sample
from rewardlab.types import Samples, distinct

Ids = list[int]


class TokenRows(NamedTuple):
    """Token ids of prompts with their responses.

    Attributes:
        ids: B rows of ids, not padded.
        starts: where in each row the response starts.
    """

    ids: list[Ids]
    starts: list[int]


class BatchRows(NamedTuple):
    """Token rows that fit a model's context.

    Attributes:
        ids: B rows of ids, not padded; none is empty.
        starts: where in each row the response starts; at the last id at the latest.
        cut: how many prompts were cut to fit.
    """

    ids: list[Ids]
    starts: list[int]
    cut: int


def token_ids(tokenizer: Any, prompts: Sequence[Prompt], responses: Sequence[str]) -> TokenRows:
    """Return the ids of each prompt with its response, and how many of them are the prompt's.

    With a chat template: the prompt as one user message, the response as the assistant's, rendered
    by the template, whose own mark ends it. Without: prompt and response joined as they are. Where
    nothing ends the response so far, the end token is appended, once. The whole is tokenized as one
    text, as TRL's RewardTrainer and published models do; a token that straddles prompt and response
    counts as the response's.

    Args:
        tokenizer: of transformers.
        prompts: B texts or conversations, the empty string where there is none.
        responses: B texts, which may be empty.

    Example:
        >>> from rewardlab.rewards.formatting import token_ids
        >>> class Letters:
        ...     chat_template, eos_token, eos_token_id = None, "!", 0
        ...     def __call__(self, texts):
        ...         return {"input_ids": [[ord(letter) - 96 for letter in text] for text in texts]}
        >>> rows = token_ids(Letters(), ["ab", "ab"], ["cd", ""])
        >>> rows.ids, rows.starts
        ([[1, 2, 3, 4, 0], [1, 2, 0]], [2, 2])
    """
    if not prompts:
        return TokenRows([], [])
    unique = distinct(prompts)
    pairs = list(zip(prompts, responses, strict=True))
    if tokenizer.chat_template:
        rows = _chat_ids(tokenizer, [messages_of(*pair) for pair in pairs])
        prompt_rows = _chat_ids(tokenizer, [messages_of(prompt) for prompt in unique.values])
        closed = _closes(tokenizer)
    else:
        texts = text_prompts(prompts, "A tokenizer without a chat template")
        joined = map(operator.add, texts, responses)
        rows = tokenizer(list(joined))["input_ids"]
        prompt_rows = tokenizer(list(unique.values))["input_ids"]
        closed = False
    end = None if closed else tokenizer.eos_token_id
    ended = [_ended(row, end) for row in rows]
    starts = []
    for row, place in zip(ended, unique.places, strict=True):
        starts.append(_common_start(row, prompt_rows[place]))
    return TokenRows(ended, starts)


def batch_ids(tokenizer: Any, samples: Samples, limit: int | None, scorer: str) -> BatchRows:
    """Return the token ids of samples, cut to fit a model's context.

    Args:
        tokenizer: of transformers.
        samples: texts.
        limit: most tokens of a row. What goes are the prompt's first tokens (but a first
            begin-of-text token stays); the response never loses any.
        scorer: who asks, for messages.

    Raises:
        InputError: if a response alone is longer than `limit`, or a row has no tokens at all; the
            row is named.
    """
    whole = token_ids(tokenizer, samples.prompts, list(samples.outputs))
    rows = []
    starts = []
    cut = 0
    for i, (ids, start) in enumerate(zip(whole.ids, whole.starts, strict=True)):
        if not ids:
            raise InputError(
                f"{scorer} has no tokens for {named_sample(samples, i)}: prompt and response are "
                "empty, and no end token."
            )
        if limit is not None and len(ids) > limit:
            refusal = f"{scorer} cannot score {named_sample(samples, i)}"
            ids, start = _cut(ids, start, limit, tokenizer.bos_token_id, refusal)
            cut += 1
        rows.append(ids)
        starts.append(min(start, len(ids) - 1))
    return BatchRows(rows, starts, cut)


def _chat_ids(tokenizer: Any, chats: list[list[dict[str, str]]]) -> list[Ids]:
    """Return the ids of chats as the template renders them.

    A chat of the user's message alone ends with the start of the assistant's.
    """
    texts = []
    for chat in chats:
        awaits = chat[-1]["role"] != "assistant"
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=awaits)
        texts.append(text)
    rows: list[Ids] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return rows


def _closes(tokenizer: Any) -> bool:
    """Tell whether the chat template writes a mark of its own after the assistant's words."""
    text = tokenizer.apply_chat_template(messages_of("question", "answer"), tokenize=False)
    return bool(text.rpartition("answer")[2].strip())


def _ended(ids: Sequence[int], end: int | None) -> Ids:
    """Return a row with the end token at its end, once; as it is if there is none."""
    row = list(ids)
    if end is not None and row[-1:] != [end]:
        row.append(end)
    return row


def _common_start(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many first tokens two sequences share."""
    count = 0
    for one, other in zip(ids, others, strict=False):
        if one != other:
            break
        count += 1
    return count


def _cut(ids: Ids, start: int, limit: int, begin: int | None, refusal: str) -> tuple[Ids, int]:
    """Drop tokens of the prompt until `limit` are left; return the row and the response's start.

    Args:
        ids: of prompt and response.
        start: of the response.
        limit: most tokens.
        begin: the begin-of-text token, which stays if it is the first and there is room.
        refusal: who cannot score what, for the message.

    Raises:
        InputError: if the response alone is longer.
    """
    response = len(ids) - start
    if response > limit:
        raise InputError(
            f"{refusal}: its response has {response} tokens and the model sees {limit}. "
            "Raise max_length, or cut it."
        )
    begins = start > 0 and ids[0] == begin
    first = ids[:1] if begins and response < limit else []
    room = limit - len(first)
    return first + ids[len(ids) - room :], limit - response
