"""A module that another module uses without owning it."""

from __future__ import annotations

from torch import nn


def hold(owner: nn.Module, name: str, module: nn.Module) -> None:
    """Set an attribute to a module, so that its owner neither trains, moves nor saves it.

    A plain assignment would register the module as a part of its owner: its weights would appear
    among the owner's parameters and in its checkpoints.

    Example:
        >>> owner = nn.Module()
        >>> hold(owner, "judge", nn.Linear(2, 1))
        >>> len(list(owner.parameters())), owner.judge.in_features
        (0, 2)
    """
    object.__setattr__(owner, name, module)
