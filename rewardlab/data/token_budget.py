"""Batches of a number of tokens: rows of like length together, as many as the budget holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rewardlab.errors import InputError
from rewardlab.networks.text_format import FormatsTexts
from rewardlab.types import PreferencePairs, Samples

STEPS = 8  # pools in which a length doubles: lengths of one pool differ by less than a tenth
AT_ONCE = 1024  # rows that are tokenized together
PICTURES = "pictures, which are equally large"
FEATURES = "features that a frozen reward computes once, which are equally large"
PROMPTS = "prompts without responses"
log = logging.getLogger("rewardlab")


class TokenBudget(NamedTuple):
    """How many tokens a batch holds, and how many each of N items takes.

    Attributes:
        tokens: most of a batch on each process: its items times the longest of them.
        lengths: int64 [N].
    """

    tokens: int
    lengths: Tensor


def check_batch(batch_size: int = 1, tokens_per_batch: int | None = None) -> None:
    """Refuse a batch that would hold nothing, before anything is read or written.

    Raises:
        InputError: if either number is below 1.

    Example:
        >>> check_batch(16, tokens_per_batch=2048)
    """
    if batch_size < 1:
        raise InputError(f"batch_size should be at least 1; got {batch_size}.")
    if tokens_per_batch is not None and tokens_per_batch < 1:
        raise InputError(
            f"tokens_per_batch should be at least 1; got {tokens_per_batch}. Leave it out for "
            "batches of batch_size."
        )


def budget_of(
    noun: Any, tokens_per_batch: int | None, models: Sequence[Any], what: str
) -> TokenBudget | None:
    """Return the budget of a loader's batches, or None if there is none.

    An item is as long as its table is wide: a sample's prompt and response, and twice the longer
    half of a pair, whose halves run together. Items that are longer than the budget are batches of
    their own, and a warning counts them.

    Args:
        noun: Samples or PreferencePairs of texts.
        tokens_per_batch: the budget.
        models: that read the texts; the longest count of them holds.
        what: name of an item in messages, in the plural.

    Raises:
        InputError: for pictures and features, without a model that counts tokens, or for no
            budget at all.

    Example:
        >>> from rewardlab import LanguageReward
        >>> from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
        >>> reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
        >>> budget_of(Samples(["a", "b"], ["c", "def"]), 64, [reward], "samples").lengths.tolist()
        [3, 5]
    """
    if tokens_per_batch is None:
        return None
    check_batch(tokens_per_batch=tokens_per_batch)
    counters = counters_of(noun, models, what)
    if isinstance(noun, PreferencePairs):
        chosen = token_counts(noun.chosen, counters)
        rejected = token_counts(noun.rejected, counters)
        lengths = 2 * torch.maximum(chosen, rejected)
    else:
        lengths = token_counts(noun, counters)
    _tell_of_long(lengths, tokens_per_batch, what)
    return TokenBudget(tokens_per_batch, lengths)


def token_counts(samples: Samples, counters: Sequence[FormatsTexts]) -> Tensor:
    """Return how many tokens of each text models read, int64 [B]: the longest count of them.

    What does not fit a model's context is counted as cut to it.

    Args:
        samples: B texts with their prompts.
        counters: of `counters_of`.
    """
    parts = []
    for start in range(0, len(samples), AT_ONCE):
        part = samples[start : start + AT_ONCE]
        counts = []
        for counter in counters:
            rows = torch.tensor(counter.token_counts(part).rows)
            counts.append(rows if counter.limit is None else rows.clamp_max(counter.limit))
        parts.append(torch.stack(counts).amax(0))
    return torch.cat(parts)


def counters_of(noun: Any, models: Sequence[Any], what: str) -> list[FormatsTexts]:
    """Return what counts the tokens of texts: such models, and such parts of models.

    Args:
        noun: Samples or PreferencePairs.
        models: policies and rewards.
        what: name of an item in messages, in the plural.

    Raises:
        InputError: for pictures, features and prompts alone, or if there is no such model.
    """
    half = noun.chosen if isinstance(noun, PreferencePairs) else noun
    if not isinstance(half, Samples) or isinstance(half.outputs, Tensor):
        raise not_texts(what, _kind_of(half))
    counters = []
    for model in models:
        parts = model.modules() if isinstance(model, nn.Module) else [model]
        counters += [part for part in parts if isinstance(part, FormatsTexts)]
    if not counters:
        names = ", ".join(type(model).__name__ for model in models) or "no model"
        raise InputError(
            f"tokens_per_batch needs a model whose tokenizer counts the tokens of {what}, such as "
            f"a LanguageReward or a CausalLMPolicy; got {names}. Leave it out, and set batch_size."
        )
    return counters


def not_texts(what: str, kind: str) -> InputError:
    """Return the error of a budget for what has no tokens."""
    return InputError(
        f"tokens_per_batch counts the tokens of texts with their prompts; these {what} are {kind}. "
        "Leave it out, and set batch_size."
    )


def _kind_of(rows: Any) -> str:
    """Return what rows without tokens are, in words."""
    if isinstance(rows, Tensor):
        return FEATURES
    return PICTURES if isinstance(rows, Samples | Dataset) else PROMPTS


def filled(lengths: Sequence[int], tokens: int, ranks: int = 1) -> list[int]:
    """Return where rows of these lengths are cut into batches that a budget holds.

    Each of `ranks` processes holds its rows of a batch times the longest row of all, or one row.

    Args:
        lengths: of rows in their order, the longest first.
        tokens: of a batch on each process.
        ranks: number of processes, to which the rows of a batch are given in turn.

    Returns:
        The end of each batch, rising.

    Example:
        >>> filled([9, 4, 3, 2, 1], 8), filled([9, 4, 3, 2, 1], 8, ranks=2)
        ([1, 3, 5], [2, 5])
    """
    ends = []
    start = 0
    longest = 0
    for row, length in enumerate(lengths):
        longest = max(longest, length)
        share = math.ceil((row + 1 - start) / ranks)
        if share > 1 and share * longest > tokens:
            ends.append(row)
            start = row
            longest = length
    return [*ends, len(lengths)] if lengths else ends


def token_batches(budget: TokenBudget, order: Tensor, ranks: int = 1) -> list[Tensor]:
    """Return the rows of each batch of all processes together, the longest first.

    Rows are sorted by pools of like length, and stand in a pool as in `order`. So an order makes
    its own batches, but every order makes equally many. A batch has as many rows as the budget
    holds (see `filled`), each counted as long as the longest that its pool may have.

    Args:
        budget: of N items.
        order: a permutation of 0 … N-1.
        ranks: number of processes.

    Example:
        >>> budget = TokenBudget(10, torch.tensor([2, 9, 1, 4, 3]))
        >>> [rows.tolist() for rows in token_batches(budget, torch.arange(5))]
        [[1], [3, 4], [0, 2]]
    """
    pools = _pool_lengths(budget.lengths)[order]
    by_length = pools.argsort(descending=True, stable=True)
    ends = filled(pools[by_length].tolist(), budget.tokens, ranks)
    sizes = [end - start for start, end in pairwise([0, *ends])]
    return list(order[by_length].split(sizes))


def rank_rows(batch: Tensor, rank: int, ranks: int) -> list[int]:
    """Return one process's rows of a batch of all processes.

    Every process gets equally many: a batch that cannot be shared out is filled up from its own
    start.

    Example:
        >>> rank_rows(torch.tensor([7, 8, 9]), 1, 2)
        [8, 7]
    """
    share = math.ceil(len(batch) / ranks)
    copies = math.ceil(share * ranks / len(batch))
    filled = batch.repeat(copies)[: share * ranks]
    rows: list[int] = filled[rank::ranks].tolist()
    return rows


def _pool_lengths(lengths: Tensor) -> Tensor:
    """Return the longest length of each item's pool, int64 [N]."""
    most = max(1, int(lengths.max()))
    count = STEPS * math.ceil(math.log2(most) + 1)
    tops = torch.tensor([math.ceil(2 ** (step / STEPS)) for step in range(count + 1)])
    return tops[torch.bucketize(lengths, tops)]


def _tell_of_long(lengths: Tensor, tokens: int, what: str) -> None:
    """Warn of items that are longer than the budget."""
    long = int((lengths > tokens).sum())
    if long:
        log.warning(
            "%d of %d %s have more tokens than tokens_per_batch=%d, up to %d; each is a batch of "
            "its own",
            long,
            len(lengths),
            what,
            tokens,
            int(lengths.max()),
        )
