"""Prompts that several rows have, run once: whether a network allows it, and which rows they are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from rewardlab import types

# of a pass's tokens have to be saved by running prompts once, or two passes cost more than one
WORTH_SHARING = 0.2


def keeps_only_keys_and_values(network: Any) -> bool:
    """Whether all that a network's layers keep of a text is keys and values of every token: no
    window, no recurrent state.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    try:
        layers = DynamicCache(config=network.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # a config that says too little
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def recomputes(network: Any) -> bool:
    """Whether a layer forgets its activations and computes them anew in the backward pass; it keeps
    no cache then.
    """
    return any(getattr(part, "gradient_checkpointing", False) for part in network.modules())


def distinct(things: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Return the first row of each distinct thing, and for each row its thing's number.

    Example:
        >>> distinct(["a", "b", "a"])
        ([0, 1], [0, 1, 0])
    """
    unique = types.distinct(things)
    return unique.first_rows, unique.places
