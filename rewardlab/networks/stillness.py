"""A network that is trained and still says the same each time: nothing in it is drawn at random."""

from __future__ import annotations

from typing import Any

from torch import nn


def still(network: Any, training: bool) -> None:
    """Put a network into eval mode, where it draws nothing; gradients flow as in training mode.

    transformers recomputes activations in training mode only. So the layers that were asked to
    recompute them keep the mode `training`, and lose whatever they would draw by themselves: their
    numbers called dropout, layerdrop or jitter become 0. The layers inside them are in eval mode.

    Args:
        network: of transformers.
        training: whether it is to be trained.

    Example:
        >>> layer = nn.Sequential(nn.Dropout(0.5))
        >>> still(layer, training=True)
        >>> layer[0].training
        False
    """
    network.eval()
    for module in recomputing_parts(network):
        for name in random_rates(module):
            setattr(module, name, 0.0)
        module.training = training


def recomputing_parts(network: nn.Module) -> list[nn.Module]:
    """Return the parts that forget their activations and recompute them in the backward pass."""
    return [part for part in network.modules() if getattr(part, "gradient_checkpointing", False)]


def random_rates(module: nn.Module) -> list[str]:
    """Return the names of a module's own numbers by which it draws in training mode.

    Many of transformers' layers call dropout as a function, with such a number.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> layer.attention_dropout = 0.1
        >>> random_rates(layer)
        ['attention_dropout']
    """
    return [name for name, value in vars(module).items() if _is_rate(name, value)]


def _is_rate(name: str, value: object) -> bool:
    is_drawn = "drop" in name.lower() or "jitter" in name.lower()
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return is_drawn and is_number and bool(value)
