"""Pairs that stand several times in a set: what they are known by, and the set without them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable
from typing import Any

from torch import Tensor

from rewardlab.storage.pair_rows import PAIR_FACTS
from rewardlab.types import PreferencePairs, distinct

log = logging.getLogger("rewardlab")


def without_doubles(pairs: PreferencePairs) -> PreferencePairs:
    """Return pairs without those that stand earlier already, and log how many are dropped.

    Pairs are equal if their prompts, both halves, margins and labels are, to the letter or pixel.

    Example:
        >>> from rewardlab.types import Samples
        >>> twice = PreferencePairs(Samples(["hi"] * 2, ["a"] * 2), Samples(["hi"] * 2, ["b"] * 2))
        >>> len(without_doubles(twice))
        1
    """
    facts = []
    for fact in PAIR_FACTS:
        if fact.name in pairs.chosen.facts:
            facts.append(pairs.chosen.facts[fact.name].tolist())
    keys = []
    for row, key in enumerate(pair_keys(pairs)):
        keys.append((*key, *[column[row] for column in facts]))
    rows = distinct(keys).first_rows
    dropped = len(pairs) - len(rows)
    if not dropped:
        return pairs
    log.warning(
        "Dropped %d of %d pairs that stand earlier already",
        dropped,
        len(pairs),
        extra={"figures": {"duplicated_pairs": dropped}},
    )
    return pairs[rows]


def pair_keys(pairs: PreferencePairs) -> list[tuple[Hashable, Hashable, Hashable]]:
    """Return prompt, chosen and rejected of each pair as values that are equal if these are."""
    chosen = output_keys(pairs.chosen.outputs)
    rejected = output_keys(pairs.rejected.outputs)
    return list(zip(pairs.chosen.prompts, chosen, rejected, strict=True))


def output_keys(outputs: Any) -> list[Hashable]:
    """Return values that are equal if outputs are: texts, or a hash of the pixels."""
    if not isinstance(outputs, Tensor):
        return list(outputs)
    keys: list[Hashable] = []
    for pixels in outputs.cpu():
        keys.append(hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest())
    return keys
