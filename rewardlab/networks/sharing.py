"""Prompts that several rows have, run once: whether a network allows it, and which rows share."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from rewardlab import types

# share of a pass's tokens that must be saved by running prompts once; below it two passes cost more
WORTH_SHARING = 0.2


def keeps_only_keys_and_values(network: Any) -> bool:
    """Return whether a network's cache holds only the keys and values of every token.

    Then it has no window and no recurrent state.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    try:
        layers = DynamicCache(config=network.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # a config that says too little
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def recomputes(network: Any) -> bool:
    """Return whether a layer forgets its activations and recomputes them in the backward pass.

    Such a layer keeps no cache.
    """
    return any(getattr(module, "gradient_checkpointing", False) for module in network.modules())


def distinct(things: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Return the first row of each distinct thing, and for each row its thing's number.

    Example:
        >>> distinct(["a", "b", "a"])
        ([0, 1], [0, 1, 0])
    """
    unique = types.distinct(things)
    return unique.first_rows, unique.places
