"""Scores of many rows: in batches of rows of like length, each row's score in its own place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.bulk.ahead import Ready
from rewardlab.bulk.entries import Entry, Numbered, samples_of
from rewardlab.data.token_budget import (
    PICTURES,
    counters_of,
    filled,
    not_texts,
    token_counts,
)
from rewardlab.errors import InputError
from rewardlab.networks.text_format import FormatsTexts
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import judged, member_scores, scores_and_members
from rewardlab.rewards.unscored import is_partial
from rewardlab.types import Samples

CHUNK_ROWS = 8192  # rows among which those of like length are found
CHUNK_LETTERS = 2**26
CHUNK_BATCHES = 4  # of pictures, which are not sorted
OVERHEAD = 2048  # letters whose padding costs as much as one more batch
WORTH_GROUPING = 0.2  # share of letters in prompts that stand beside themselves when grouped


class Verdict(NamedTuple):
    """What a reward says of B rows.

    Attributes:
        scores: float32 [B], NaN where a row is not scored.
        reasons: B strings, why it is not; "" where it is.
        members: float32 [B, M], NaN where a row is not scored; None if they were not asked for.
    """

    scores: Tensor
    reasons: list[str]
    members: Tensor | None = None


@dataclass(frozen=True)
class How:
    """How rows are scored.

    Attributes:
        batch_size: rows scored at once.
        members: whether each member's score is asked for.
        skip_unreadable: whether a row that cannot be read goes unscored instead of ending the run.
        tokens_per_batch: tokens scored at once, with padding, in place of `batch_size`.
        threads: that decode pictures ahead; None for as many as there are free cores, 0 for none.
    """

    batch_size: int = 64
    members: bool = False
    skip_unreadable: bool = False
    tokens_per_batch: int | None = None
    threads: int | None = None


def chunks(entries: Iterable[Entry], batch_size: int) -> Iterator[list[Numbered]]:
    """Give the rows in chunks that fit into memory; where they end depends on the rows alone.

    Example:
        >>> [len(chunk) for chunk in chunks([Entry("", "", "a")] * 10_000, 64)]
        [8192, 1808]
    """
    chunk: list[Numbered] = []
    letters = 0
    for row, entry in enumerate(entries):
        chunk.append(Numbered(row, entry))
        letters += entry.letters
        is_picture = not isinstance(entry.output, str)
        most = CHUNK_BATCHES * batch_size if is_picture else CHUNK_ROWS
        if len(chunk) >= most or letters >= CHUNK_LETTERS:
            yield chunk
            chunk = []
            letters = 0
    if chunk:
        yield chunk


def batches_for(reward: Reward, chunk: Sequence[Numbered], how: How) -> list[list[Numbered]]:
    """Return a chunk's rows in the batches in which a reward scores them.

    Raises:
        InputError: if a budget of tokens is asked for, and rows are pictures or the reward counts
            no tokens.
    """
    if how.tokens_per_batch is None:
        return batches(chunk, how.batch_size)
    lengths = _token_lengths(reward, chunk)
    rows = in_order(chunk, lengths)
    ends = filled([lengths[numbered.row] for numbered in rows], how.tokens_per_batch)
    return [rows[start:end] for start, end in pairwise([0, *ends])]


def batches(chunk: Sequence[Numbered], batch_size: int) -> list[list[Numbered]]:
    """Return a chunk's rows in batches of like length, the longest first.

    They are cut where the fewest letters are padded, an additional batch counting as `OVERHEAD`
    letters. What does not fit into memory fails at once.

    Example:
        >>> rows = [Numbered(row, Entry("", "", "a" * row)) for row in (3, 9, 1, 7)]
        >>> [[row for row, _ in batch] for batch in batches(rows, 2)]
        [[9, 7], [3, 1]]
    """
    letters = {row: entry.letters for row, entry in chunk}
    rows = in_order(chunk, letters)
    ends = cuts([entry.letters for _, entry in rows], batch_size)
    return [rows[start:end] for start, end in pairwise([0, *ends])]


def in_order(chunk: Sequence[Numbered], lengths: Mapping[int, int]) -> list[Numbered]:
    """Return rows of like length beside each other, the longest first.

    Rows of one prompt stay together where prompts that repeat are a fifth of the letters, since a
    reward may run such a prompt once for all of them.

    Args:
        chunk: rows.
        lengths: of each row, by its number.
    """
    longest: dict[object, int] = defaultdict(int)
    together = _repeats_prompts(chunk)
    keys = []
    for row, entry in chunk:
        keys.append(entry.prompt if together else row)
        longest[keys[-1]] = max(longest[keys[-1]], lengths[row])
    ranks = {key: rank for rank, key in enumerate(longest)}
    order = sorted(
        range(len(chunk)),
        key=lambda place: (
            -longest[keys[place]],
            ranks[keys[place]],
            -lengths[chunk[place].row],
        ),
    )
    return [chunk[place] for place in order]


def _token_lengths(reward: Reward, chunk: Sequence[Numbered]) -> dict[int, int]:
    """Return the tokens of each row, by its number; 0 where a row cannot be read."""
    readable = [numbered for numbered in chunk if not numbered.entry.problem]
    lengths = dict.fromkeys([row for row, _ in chunk], 0)
    if not readable:
        return lengths
    if not all(isinstance(entry.output, str) for _, entry in readable):
        raise not_texts("samples", PICTURES)
    rows = [row for row, _ in readable]
    samples = samples_of([entry for _, entry in readable], rows)
    counters = counters_of(samples, [reward], "samples")
    lengths.update(zip(rows, _counts(samples, counters), strict=True))
    return lengths


def _counts(samples: Samples, counters: Sequence[FormatsTexts]) -> list[int]:
    """Return the tokens of texts; 0 for those of which a model says why it takes none."""
    try:
        counts: list[int] = token_counts(samples, counters).tolist()
        return counts
    except InputError:
        if len(samples) == 1:
            return [0]
    middle = len(samples) // 2
    return _counts(samples[:middle], counters) + _counts(samples[middle:], counters)


def cuts(lengths: Sequence[int], most: int) -> list[int]:
    """Return where rows of these lengths are cut into batches of at most `most` rows.

    The sum over batches of rows times the longest of them, plus `OVERHEAD` a batch, is least.

    Returns:
        The end of each batch, rising.

    Example:
        >>> cuts([9000, 10, 10, 10], 4), cuts([12, 11, 10, 9], 2)
        ([1, 4], [2, 4])
    """
    least = [0.0]
    starts = [0]
    for end in range(1, len(lengths) + 1):
        longest = 0
        best = float("inf")
        best_start = end - 1
        for start in range(end - 1, max(0, end - most) - 1, -1):
            longest = max(longest, lengths[start])
            if least[start] + longest * (end - start) >= best:
                break  # an earlier start pads as much, or could be cut here for OVERHEAD
            cost = least[start] + longest * (end - start) + OVERHEAD
            if cost < best:
                best = cost
                best_start = start
        least.append(best)
        starts.append(best_start)
    ends = [len(lengths)]
    while starts[ends[-1]]:
        ends.append(starts[ends[-1]])
    return ends[::-1]


def _repeats_prompts(chunk: Sequence[Numbered]) -> bool:
    """Tell whether prompts that come again are a large share of the letters."""
    whole = 0
    spared = 0
    seen = set()
    for _, entry in chunk:
        whole += entry.letters
        if entry.prompt in seen and isinstance(entry.output, str):
            spared += entry.letters - len(entry.output)
        seen.add(entry.prompt)
    return spared > 0 and spared >= WORTH_GROUPING * whole


def judge(reward: Reward, ready: Ready, how: How) -> Verdict:
    """Return what a reward says of a batch; a row that cannot be read is not scored.

    Raises:
        InputError: as `rewards.scoring.judged`.
    """
    reasons = list(ready.reasons)
    places = [place for place, reason in enumerate(reasons) if not reason]
    scores = torch.full((len(reasons),), torch.nan)
    samples = ready.samples
    if samples is None:
        return Verdict(scores, reasons)
    members = None
    most = how.batch_size if how.tokens_per_batch is None else len(samples)
    if how.members and reward.mean_of_members and not is_partial(reward):
        scores[places], of_members = scores_and_members(reward, samples, most)
        members = torch.full((len(reasons), of_members.shape[1]), torch.nan)
        members[places] = of_members
        return Verdict(scores, reasons, members)
    judgment = judged(reward, samples, most)
    scores[places] = judgment.scores
    for place, reason in zip(places, judgment.reasons, strict=True):
        reasons[place] = reason
    if how.members and judgment.scored.any():
        of_members = member_scores(reward, samples[judgment.scored], most)
        members = torch.full((len(reasons), of_members.shape[1]), torch.nan)
        members[~scores.isnan()] = of_members
    return Verdict(scores, reasons, members)
