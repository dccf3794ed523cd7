"""More pairs from the pairs that there are."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.seeds import derive, generators, row_seeds
from rewardlab.types import PreferencePairs, Samples, concatenate, take


def non_contextual(pairs: PreferencePairs, seed: int, ties: bool = True) -> PreferencePairs:
    """Return pairs that only the prompt decides: an answer to it beats an answer to another. RRM,
    arXiv 2409.13156.

    A reward that likes a response for its looks, whatever was asked, gets these wrong. Each pair
    (x, y⁺ ≻ y⁻) and another pair of other prompt with halves z⁺, z⁻ give (x, y⁺ ≻ z⁺) and (x, y⁻ ≻
    z⁻), and the tie (x, z⁺ ~ z⁻).

    Args:
        pairs: of two or more prompts. Their own outputs and facts are not in the result:
            `concatenate` both to train.
        seed: chooses the other pair, uniformly among those of other prompts.
        ties: whether the ties are there.

    Returns:
        2·B pairs, or 3·B with ties; the fact "label" of the chosen half is 1, or 0.5 for a tie.

    Raises:
        InputError: if there is one prompt only.

    Example:
        >>> pairs = PreferencePairs(Samples(["a", "b"], ["a+", "b+"]), Samples(["a", "b"], ["a-", "b-"]))
        >>> more = non_contextual(pairs, seed=0)
        >>> list(zip(more.chosen.prompts, more.chosen.outputs, more.rejected.outputs))
        [('a', 'a+', 'b+'), ('b', 'b+', 'a+'), ('a', 'a-', 'b-'), ('b', 'b-', 'a-'), ('a', 'b+', 'b-'), ('b', 'a+', 'a-')]
        >>> more.chosen.facts["label"].tolist()
        [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    """
    prompts = pairs.chosen.prompts
    other = _others(pairs, seed)
    good = pairs.chosen.outputs
    bad = pairs.rejected.outputs
    contests = [(good, take(good, other), 1.0), (bad, take(bad, other), 1.0)]
    if ties:
        contests.append((take(good, other), take(bad, other), 0.5))
    parts = [
        PreferencePairs(
            Samples(prompts, better, {"label": torch.full((len(pairs),), label)}),
            Samples(prompts, worse),
        )
        for better, worse, label in contests
    ]
    return concatenate(parts)  # type: ignore[no-any-return]


def _others(pairs: PreferencePairs, seed: int) -> Tensor:
    """For each pair the row [B] of one of another prompt, each of those as likely."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(pairs.chosen.prompts))}
    if len(numbers) < 2:
        raise InputError(
            f"non_contextual takes answers to other prompts, and all {len(pairs)} pairs have one prompt."
        )
    group = torch.tensor([numbers[prompt] for prompt in pairs.chosen.prompts])
    order = group.argsort(stable=True)
    counts = torch.bincount(group)
    first = counts.cumsum(0) - counts  # where each prompt's rows begin in `order`
    rows = []
    for own, generator in zip(
        group.tolist(),
        generators(row_seeds(derive(seed, "non-contextual"), len(group))),
        strict=True,
    ):
        place = int(torch.randint(len(group) - int(counts[own]), (), generator=generator))
        rows.append(int(order[place if place < first[own] else place + counts[own]]))
    return torch.tensor(rows)
