"""From (prompt, response) to the token ids that a language reward scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens, finished_of
from rewardlab.networks.marks import Ids
from rewardlab.rewards.base import named_sample
from rewardlab.types import Samples


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


def token_ids(
    tokenizer: Any,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    finished: Sequence[bool] | None = None,
) -> TokenRows:
    """Return the ids of each prompt with its response, and how many of them are the prompt's.

    With a chat template they are what it renders, and its own mark ends them. Without, prompt and
    response are joined as they are. Where nothing ends the response so far, the end token is
    appended, once. The whole is tokenized as one text, as TRL's RewardTrainer and published models
    do; a token that straddles prompt and response counts as the response's.

    Args:
        tokenizer: of transformers, or the `TextTokens` of one.
        prompts: B texts or conversations, the empty string where there is none.
        responses: B texts, which may be empty.
        finished: whether each response ended by itself; nothing is put behind one that did not. All
            did by default.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_tokenizer
        >>> rows = token_ids(tiny_tokenizer(), ["ab", "ab"], ["cd", ""])
        >>> rows.ids, rows.starts
        ([[97, 98, 99, 100, 256], [97, 98, 256]], [2, 2])
    """
    if not prompts:
        return TokenRows([], [])
    texts = tokenizer if isinstance(tokenizer, TextTokens) else TextTokens(tokenizer)
    rows = texts.row_ids(prompts, responses, finished or [True] * len(prompts))
    starts = []
    for row, prompt in zip(rows, texts.prompt_ids(prompts), strict=True):
        starts.append(_common_start(row, prompt))
    return TokenRows(rows, starts)


def batch_ids(tokenizer: Any, samples: Samples, limit: int | None, scorer: str) -> BatchRows:
    """Return the token ids of samples, cut to fit a model's context.

    The fact "finished" says which responses ended by themselves.

    Args:
        tokenizer: of transformers, or the `TextTokens` of one.
        samples: texts.
        limit: most tokens of a row. What goes are the prompt's first tokens (but a first
            begin-of-text token stays); the response never loses any.
        scorer: who asks, for messages.

    Raises:
        InputError: if a response alone is longer than `limit`, or a row has no tokens at all; the
            row is named.
    """
    texts = tokenizer if isinstance(tokenizer, TextTokens) else TextTokens(tokenizer)
    whole = token_ids(texts, samples.prompts, list(samples.outputs), finished_of(samples))
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
            ids, start = _cut(ids, start, limit, texts.tokenizer.bos_token_id, refusal)
            cut += 1
        rows.append(ids)
        starts.append(min(start, len(ids) - 1))
    return BatchRows(rows, starts, cut)


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
