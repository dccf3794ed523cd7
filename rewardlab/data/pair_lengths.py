"""How long the texts of pairs are, in a model's tokens or in characters, beside its context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens
from rewardlab.types import PreferencePairs

QUANTILES = {"least": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}
_AT_ONCE = 256  # pairs that are tokenized together


class PairLengths(NamedTuple):
    """Lengths of B pairs.

    Attributes:
        unit: "tokens" or "characters".
        prompt: int64 [B], with what a chat template writes around it.
        chosen: int64 [B], of the chosen response alone.
        rejected: int64 [B], of the rejected response alone.
        row: int64 [B], the longer of both texts that a model reads, each of prompt and response
            with what ends it.
        refused: why the model's template takes no text of a row, by the row's number; such rows
            have the lengths 0.
    """

    unit: str
    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    row: Tensor
    refused: dict[int, str]


class _Counts(NamedTuple):
    """The lengths of one pair."""

    prompt: int
    chosen: int
    rejected: int
    row: int


def pair_lengths(pairs: PreferencePairs, tokens: TextTokens | None = None) -> PairLengths:
    """Return how long the texts of pairs are.

    Args:
        pairs: of texts.
        tokens: how a model reads texts; without it, characters are counted.

    Example:
        >>> from rewardlab.types import Samples
        >>> pairs = PreferencePairs(Samples(["2+2?"], ["4"]), Samples(["2+2?"], ["five"]))
        >>> pair_lengths(pairs).row.tolist()
        [8]
    """
    refused: dict[int, str] = {}
    if tokens is None:
        counts = _characters(pairs)
    else:
        counts = _tokens(pairs, tokens, refused)
    columns = torch.tensor(counts, dtype=torch.int64).reshape(-1, len(_Counts._fields))
    prompt, chosen, rejected, row = columns.unbind(1)
    unit = "characters" if tokens is None else "tokens"
    return PairLengths(unit, prompt, chosen, rejected, row, refused)


def length_quantiles(lengths: PairLengths) -> dict[str, dict[str, int]]:
    """Return the quantiles of each part's lengths, over the pairs that the model can read.

    Returns:
        For "prompt", "chosen", "rejected" and "row" the numbers of `QUANTILES`; nothing where no
        pair can be read.
    """
    rows = [row for row in range(len(lengths.row)) if row not in lengths.refused]
    if not rows:
        return {}
    shares = torch.tensor(list(QUANTILES.values()), dtype=torch.float64)
    figures = {}
    for name in ("prompt", "chosen", "rejected", "row"):
        values = getattr(lengths, name)[rows].double()
        numbers = values.quantile(shares, interpolation="nearest").long().tolist()
        figures[name] = dict(zip(QUANTILES, numbers, strict=True))
    return figures


def context_figures(lengths: PairLengths, context: int) -> dict[str, int]:
    """Return what a context of so many tokens does to pairs, for a reward and for a policy.

    A reward reads a row that is too long without the beginning of its prompt, and refuses a
    response that is too long alone. A policy, as DPO trains, refuses every row that is too long.
    `long_rows` says what becomes of refused pairs.

    Returns:
        "context"; "long", the pairs that do not fit; "reward_cuts" the prompts of so many of them
        and "reward_refuses" the others; "policy_cuts", where long_rows="truncate" cuts responses,
        and "policy_drops", whose prompt alone is too long.

    Example:
        >>> sizes = torch.tensor([[2, 9], [1, 1], [1, 1], [3, 10]])
        >>> context_figures(PairLengths("tokens", *sizes, refused={}), 8)["reward_cuts"]
        1
    """
    long = lengths.row > context
    count = int(long.sum())
    long_responses = int((lengths.row - lengths.prompt > context).sum())
    long_prompts = int((long & (lengths.prompt > context)).sum())
    return {
        "context": context,
        "long": count,
        "reward_cuts": count - long_responses,
        "reward_refuses": long_responses,
        "policy_cuts": count - long_prompts,
        "policy_drops": long_prompts,
    }


def _characters(pairs: PreferencePairs) -> list[_Counts]:
    counts = []
    prompts = pairs.chosen.prompts
    outputs = zip(prompts, pairs.chosen.outputs, pairs.rejected.outputs, strict=True)
    for prompt, chosen, rejected in outputs:
        size = len(str(prompt))
        longest = max(len(chosen), len(rejected))
        counts.append(_Counts(size, len(chosen), len(rejected), size + longest))
    return counts


def _tokens(pairs: PreferencePairs, tokens: TextTokens, refused: dict[int, str]) -> list[_Counts]:
    """Return the tokens of each pair; note why pairs cannot be read, by their number."""
    counts: list[_Counts] = []
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        try:
            counts += _counted(part, tokens)
        except InputError:
            for row in range(len(part)):
                counts.append(_counted_alone(part[row : row + 1], tokens, start + row, refused))
    return counts


def _counted_alone(
    pair: PreferencePairs, tokens: TextTokens, row: int, refused: dict[int, str]
) -> _Counts:
    """Return the tokens of one pair; note why it cannot be read."""
    try:
        return _counted(pair, tokens)[0]
    except InputError as error:
        refused[row] = str(error)
        return _Counts(0, 0, 0, 0)


def _counted(pairs: PreferencePairs, tokens: TextTokens) -> list[_Counts]:
    prompts: Sequence[Prompt] = pairs.chosen.prompts
    ended = [True] * len(prompts)
    sizes: dict[str, Any] = {}
    for name, half in {"chosen": pairs.chosen, "rejected": pairs.rejected}.items():
        texts = [str(text) for text in half.outputs]
        parts = tokens.pair_ids(prompts, texts)
        sizes["prompt"] = list(map(len, parts.prompts))
        sizes[name] = list(map(len, parts.responses))
        sizes[f"{name} row"] = list(map(len, tokens.row_ids(prompts, texts, ended)))
    rows = map(max, sizes["chosen row"], sizes["rejected row"])
    columns = zip(sizes["prompt"], sizes["chosen"], sizes["rejected"], rows, strict=True)
    return [_Counts(*column) for column in columns]
