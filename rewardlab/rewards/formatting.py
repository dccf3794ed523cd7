"""From (prompt, response) to the token ids that a language reward scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens, finished_of
from rewardlab.networks.marks import Ids
from rewardlab.networks.whole_texts import MAY_BE_CUT, whole_ids
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


class _Makes(Protocol):
    """What makes token rows of prompts and responses, such as `token_ids`."""

    def __call__(
        self,
        texts: TextTokens,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool],
        /,
    ) -> TokenRows: ...


def _rows_of(texts: TextTokens, samples: Samples, make_rows: _Makes) -> TokenRows:
    """Return token rows of samples, some of which may be whole texts, by the fact "whole".

    A whole text that may be cut is taken for a prompt whose response is its last token, and one
    that may not for a response.
    """
    if "whole" not in samples.facts:
        return make_rows(texts, samples.prompts, list(samples.outputs), finished_of(samples))
    kinds = samples.facts["whole"].tolist()
    parted = samples[[place for place, kind in enumerate(kinds) if not kind]]
    rows = make_rows(texts, parted.prompts, list(parted.outputs), finished_of(parted))
    parted_rows = iter(zip(rows.ids, rows.starts, strict=True))
    words = [text for text, kind in zip(samples.outputs, kinds, strict=True) if kind]
    whole = iter(whole_ids(texts, words))
    ids = []
    starts = []
    for kind in kinds:
        if kind:
            row = next(whole)
            start = len(row) - 1 if kind == MAY_BE_CUT else 0
        else:
            row, start = next(parted_rows)
        ids.append(row)
        starts.append(start)
    return TokenRows(ids, starts)


class RowMemory:
    """Token rows of texts that come again, such as references or a replayed rollout.

    A row's tokens are its own, whatever stands beside it, so they are made once.

    Args:
        most_tokens: tokens that are kept; beyond them all are forgotten, and it begins anew.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_tokenizer
        >>> memory, texts = RowMemory(), TextTokens(tiny_tokenizer())
        >>> memory.rows(texts, ["ab"], ["cd"], [True]) == token_ids(texts, ["ab"], ["cd"])
        True
    """

    def __init__(self, most_tokens: int = 1 << 18) -> None:
        self.most_tokens = most_tokens
        self._texts: TextTokens | None = None
        self._rows: dict[tuple[Prompt, str, bool], tuple[Ids, int]] = {}
        self._count = 0

    def __reduce__(self) -> tuple[type[RowMemory], tuple[int]]:
        """Copy and pickle without the rows."""
        return RowMemory, (self.most_tokens,)

    def rows(
        self,
        texts: TextTokens,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool],
    ) -> TokenRows:
        """Return what `token_ids` returns; texts in another form are not mixed up."""
        if texts is not self._texts or self._count > self.most_tokens:
            self._texts = texts
            self._rows = {}
            self._count = 0
        keys = list(zip(prompts, responses, finished, strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self._rows]
        self._add(texts, new)
        rows = [self._rows[key] for key in keys]
        return TokenRows([ids for ids, _ in rows], [start for _, start in rows])

    def _add(self, texts: TextTokens, keys: Sequence[tuple[Prompt, str, bool]]) -> None:
        """Make the rows of texts that are new."""
        if not keys:
            return
        prompts = [prompt for prompt, _, _ in keys]
        responses = [response for _, response, _ in keys]
        ends = [finished for _, _, finished in keys]
        made = token_ids(texts, prompts, responses, ends)
        for key, ids, start in zip(keys, made.ids, made.starts, strict=True):
            self._rows[key] = (ids, start)
            self._count += len(ids)


def batch_ids(
    tokenizer: Any,
    samples: Samples,
    limit: int | None,
    scorer: str,
    memory: RowMemory | None = None,
) -> BatchRows:
    """Return the token ids of samples, cut to fit a model's context.

    The fact "finished" says which responses ended by themselves, and "whole" which outputs hold
    their prompts and are read as their sender formatted them.

    Args:
        tokenizer: of transformers, or the `TextTokens` of one.
        samples: texts.
        limit: most tokens of a row. What goes are the prompt's first tokens (but a first
            begin-of-text token stays); the response never loses any.
        scorer: who asks, for messages.
        memory: rows that were made before; none by default.

    Raises:
        InputError: if a response alone is longer than `limit`, or a row has no tokens at all; the
            row is named.
    """
    texts = tokenizer if isinstance(tokenizer, TextTokens) else TextTokens(tokenizer)
    make_rows = token_ids if memory is None else memory.rows
    uncut = _rows_of(texts, samples, make_rows)
    rows = []
    starts = []
    cut = 0
    for i, (ids, start) in enumerate(zip(uncut.ids, uncut.starts, strict=True)):
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
