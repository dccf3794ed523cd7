"""Tensors that are spread over processes (FSDP2), and copies of modules that have them."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def is_spread(tensor: Tensor) -> bool:
    """Tell whether this process has only its share of a tensor.

    Example:
        >>> import torch
        >>> is_spread(torch.tensor([1.0]))
        False
    """
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is spread over processes as a whole one on each; others as they are.

    Example:
        >>> import torch
        >>> whole(torch.tensor([1.0])).item()
        1.0
    """
    spread: Any = tensor
    return spread.full_tensor() if is_spread(tensor) else tensor


def spread_as(value: Tensor, weight: Tensor) -> Tensor:
    """Return a value, whole or not, on a weight's device, spread over processes as the weight is.

    Example:
        >>> import torch
        >>> spread_as(torch.tensor([1.0]), torch.zeros(1)).item()
        1.0
    """
    value = value.to(weight.device)
    if not is_spread(weight) or is_spread(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    spread: Any = weight
    mesh, placements = spread.device_mesh, spread.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def shallow_copy(module: Module) -> Module:
    """Return a copy that has the same parts, also of a module whose weights are spread.

    Such a copy is used where the module's own weights are whole, inside one of its methods.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> shallow_copy(layer).weight is layer.weight
        True
    """
    copied = object.__new__(type(module))
    for name, value in module.__dict__.items():
        if not getattr(value, "gathers_for", False):  # a method that is bound to the module
            copied.__dict__[name] = value
    copied._modules = dict(module._modules)
    return copied
