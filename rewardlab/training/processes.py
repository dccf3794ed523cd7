"""Sums, means and lists over all processes of a distributed run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist

from rewardlab.losses.policy_gradient import Normalization, step_weights


def is_distributed() -> bool:
    """Tell whether several processes train together."""
    return dist.is_available() and dist.is_initialized()


def across_processes(value: Tensor, how: Literal["SUM", "MAX"] = "SUM") -> Tensor:
    """Return the sum, or the largest, of every process's `value`."""
    if not is_distributed():
        return value
    total = value.detach().clone()
    dist.all_reduce(total, getattr(dist.ReduceOp, how))
    return total


def mean(values: Tensor) -> Tensor:
    """Return the mean over all entries of all processes' `values`, which may differ in number.

    Example:
        >>> mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]])).item()
        4.0
    """
    count = values.new_tensor(values.numel()).double()
    sum_and_count = torch.stack([values.double().sum(), count])
    total = across_processes(sum_and_count)
    return (total[0] / total[1]).float()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Set the gradients of parameters that no strategy averages to their mean over all processes.

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> weight.grad = torch.ones(1)
        >>> average_gradients([weight])
        >>> weight.grad.item()
        1.0
    """
    if not is_distributed():
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = across_processes(parameter.grad) / dist.get_world_size()


def relative_share(count: Tensor) -> Tensor:
    """Return this process's count over the mean count of all processes, a scalar.

    Gradients are averaged over processes. A loss that is a mean over this process's items becomes a
    mean over all items when it is multiplied by this share.

    Example:
        >>> relative_share(torch.tensor(7)).item()
        1.0
    """
    own_count = count.float()
    return own_count / mean(own_count[None]).clamp_min(1e-8)


def joint_step_weights(mask: Tensor, normalization: Normalization) -> Tensor:
    """Return each step's weight in a mean over the batches of all processes, float32 [B, T].

    Args:
        mask: bool [B, T], this process's steps that count.
        normalization: see `rewardlab.losses.policy_gradient.step_weights`. "constant" takes the
            longest row of all processes.
    """
    longest = across_processes(torch.tensor(mask.shape[1], device=mask.device), "MAX")
    weights = step_weights(mask, normalization, longest.item())
    if normalization == "token":
        return weights * relative_share(mask.sum())
    return weights * relative_share(torch.tensor(len(mask), device=mask.device))


def from_all_processes(value: Any) -> list[Any]:
    """Return every process's `value`, in the order of ranks, on every process.

    Example:
        >>> from_all_processes("alone")
        ['alone']
    """
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
