"""More pairs from the pairs that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.seeds import derive, generators, row_seeds
from rewardlab.types import PreferencePairs, Samples, concatenate, distinct, take


class _Contest(NamedTuple):
    """Two outputs for each of B prompts, and the probability that the first is better."""

    better: Tensor | Sequence[str]
    worse: Tensor | Sequence[str]
    label: float


def non_contextual(pairs: PreferencePairs, seed: int, ties: bool = True) -> PreferencePairs:
    """Return pairs that only the prompt decides: an answer to it beats an answer to another.

    The method is RRM's, arXiv 2409.13156. A reward that likes a response for its looks, whatever
    the prompt, gets these wrong. Each pair (x, y⁺ ≻ y⁻) and another pair of other prompt with
    halves z⁺, z⁻ give (x, y⁺ ≻ z⁺) and (x, y⁻ ≻ z⁻), and the tie (x, z⁺ ~ z⁻).

    Args:
        pairs: of two or more prompts. Their own outputs and facts are not in the result:
            `concatenate` both to train.
        seed: chooses the other pair, uniformly among those of other prompts.
        ties: adds the ties.

    Returns:
        2·B pairs, or 3·B with ties; the fact "label" of the chosen half is 1, or 0.5 for a tie.

    Raises:
        InputError: if there is one prompt only.

    Example:
        >>> chosen, rejected = Samples(["a", "b"], ["a+", "b+"]), Samples(["a", "b"], ["a-", "b-"])
        >>> more = non_contextual(PreferencePairs(chosen, rejected), seed=0)
        >>> for row in zip(more.chosen.prompts, more.chosen.outputs, more.rejected.outputs):
        ...     print(*row)
        a a+ b+
        b b+ a+
        a a- b-
        b b- a-
        a b+ b-
        b a+ a-
        >>> more.chosen.facts["label"].tolist()
        [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    """
    prompts = pairs.chosen.prompts
    other_rows = _other_rows(pairs, seed)
    good = pairs.chosen.outputs
    bad = pairs.rejected.outputs
    other_good = take(good, other_rows)
    other_bad = take(bad, other_rows)
    contests = [_Contest(good, other_good, 1.0), _Contest(bad, other_bad, 1.0)]
    if ties:
        contests.append(_Contest(other_good, other_bad, 0.5))
    parts = []
    for contest in contests:
        facts = {"label": torch.full((len(pairs),), contest.label)}
        chosen = Samples(prompts, contest.better, facts)
        parts.append(PreferencePairs(chosen, Samples(prompts, contest.worse)))
    return concatenate(parts)  # type: ignore[no-any-return]


def _other_rows(pairs: PreferencePairs, seed: int) -> Tensor:
    """Return for each pair the row [B] of one of another prompt, each of those as likely."""
    prompts = distinct(pairs.chosen.prompts)
    if len(prompts.values) < 2:
        raise InputError(
            "non_contextual takes answers to other prompts, "
            f"and all {len(pairs)} pairs have one prompt."
        )
    places = torch.tensor(prompts.places)
    by_prompt = places.argsort(stable=True)  # rows, those of one prompt together
    counts = torch.bincount(places)
    starts = counts.cumsum(0) - counts  # where each prompt's rows begin in `by_prompt`
    seeds = row_seeds(derive(seed, "non-contextual"), len(pairs))
    rows = []
    for place, generator in zip(prompts.places, generators(seeds), strict=True):
        others = len(pairs) - int(counts[place])
        position = int(torch.randint(others, (), generator=generator))
        if position >= starts[place]:
            position += int(counts[place])  # skip the rows of the pair's own prompt
        rows.append(int(by_prompt[position]))
    return torch.tensor(rows)
