"""How many bytes an optimizer keeps, by its class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

# numbers kept for each trained weight, in units of the weight's precision
STATES = {
    "AdamW": 2,
    "BFloat16AdamW": 1,  # two of half the bytes
    "Adam": 2,
    "NAdam": 2,
    "RAdam": 2,
    "Adamax": 2,
    "Adagrad": 1,
    "RMSprop": 1,
    "Rprop": 2,
    "SGD": 0,
    "Adafactor": 0,
}


def state_size(weights: Iterable[nn.Parameter], optimizer: str, options: Mapping[str, Any]) -> int:
    """Return the bytes of an optimizer's state for the trained weights among some.

    Args:
        weights: of the networks.
        optimizer: its class's name; one that is not known is taken for AdamW.
        options: its arguments.

    Example:
        >>> state_size(nn.Linear(9, 1).parameters(), "AdamW", {})
        80
    """
    count = STATES.get(optimizer, 2)
    if options.get("momentum"):
        count += 1
    if options.get("amsgrad"):
        count += 1
    return count * gradient_size(weights)


def gradient_size(weights: Iterable[nn.Parameter]) -> int:
    """Return the bytes of the gradients of the trained weights among some."""
    total = 0
    for weight in weights:
        if weight.requires_grad:
            total += weight.numel() * weight.element_size()
    return total
