"""From (prompt, response) to token ids: one way, for training and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewardlab.errors import InputError
from rewardlab.types import Samples


def token_ids(
    tokenizer: Any, prompts: Sequence[str], responses: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """Return the ids of each prompt with its response, and how many of them are the prompt's.

    With a chat template: the prompt as one user message, the response as the assistant's, rendered
    by the template, whose own mark ends it. Without: prompt and response joined as they are. Where
    nothing ends the response so far, the end token is appended, once. The whole is tokenized as one
    text, as TRL's RewardTrainer and published models do; a token that straddles prompt and response
    counts as the response's.

    Args:
        tokenizer: of transformers.
        prompts: B texts, the empty string where there is none.
        responses: B texts, which may be empty.

    Example:
        >>> from rewardlab.rewards.formatting import token_ids
        >>> class Letters:
        ...     chat_template, eos_token, eos_token_id = None, "!", 0
        ...     def __call__(self, texts):
        ...         return {"input_ids": [[ord(letter) - 96 for letter in text] for text in texts]}
        >>> token_ids(Letters(), ["ab", "ab"], ["cd", ""])
        ([[1, 2, 3, 4, 0], [1, 2, 0]], [2, 2])
    """
    if not prompts:
        return [], []
    known = list(dict.fromkeys(prompts))
    if tokenizer.chat_template:
        chats = [
            _chat(prompt, response) for prompt, response in zip(prompts, responses, strict=True)
        ]
        wholes = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        starts = [
            tokenizer.apply_chat_template(_chat(p), tokenize=False, add_generation_prompt=True)
            for p in known
        ]
        rows, heads = (
            tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (wholes, starts)
        )
        closed = _closes(tokenizer)
    else:
        wholes = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        rows = tokenizer(wholes)["input_ids"]
        heads = tokenizer(known)["input_ids"]
        closed = False
    end = tokenizer.eos_token_id
    ended = [
        list(row) if closed or end is None or row[-1:] == [end] else [*row, end] for row in rows
    ]
    before = dict(zip(known, heads, strict=True))
    return ended, [_shared(row, before[prompt]) for row, prompt in zip(ended, prompts, strict=True)]


def batch_ids(
    tokenizer: Any, samples: Samples, limit: int | None, scorer: str
) -> tuple[list[list[int]], list[int], int]:
    """Return the token ids of samples, where in each the response starts, and how many prompts were
    cut to fit.

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
    rows = []
    starts = []
    cut = 0
    for i, (ids, start) in enumerate(
        zip(*token_ids(tokenizer, samples.prompts, samples.outputs), strict=True)
    ):
        if not ids:
            raise InputError(
                f"{scorer} has no tokens for {_named(samples, i)}: prompt and response are empty, and no end token."
            )
        if limit is not None and len(ids) > limit:
            ids, start = _cut(
                ids, start, limit, tokenizer, f"{scorer} cannot score {_named(samples, i)}"
            )
            cut += 1
        rows.append(ids)
        starts.append(min(start, len(ids) - 1))
    return rows, starts, cut


def _chat(*words: str) -> list[dict[str, str]]:
    return [
        {"role": role, "content": said}
        for role, said in zip(("user", "assistant"), words, strict=False)
    ]


def _closes(tokenizer: Any) -> bool:
    """Tell whether the chat template writes a mark of its own after the assistant's words."""
    said = tokenizer.apply_chat_template(_chat("question", "answer"), tokenize=False)
    return bool(said.rpartition("answer")[2].strip())


def _shared(ids: Sequence[int], before: Sequence[int]) -> int:
    """Return how many first tokens two sequences share."""
    pairs = zip(ids, before, strict=False)
    return next(
        (i for i, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(before))
    )


def _cut(
    ids: list[int], start: int, limit: int, tokenizer: Any, refusal: str
) -> tuple[list[int], int]:
    """Drop tokens of the prompt until `limit` are left."""
    response = len(ids) - start
    first = ids[:1] if start and ids[0] == tokenizer.bos_token_id else []
    if response > limit:
        raise InputError(
            f"{refusal}: its response has {response} tokens and the model sees {limit}. Raise max_length, or cut it."
        )
    kept = first if response + len(first) <= limit else []
    left = limit - len(kept)
    return kept + ids[len(ids) - left :], limit - response


def _named(samples: Samples, i: int) -> str:
    row = f" (row {int(samples.facts['row'][i])})" if "row" in samples.facts else ""
    return f"sample {i}{row}"
