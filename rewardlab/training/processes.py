"""Sums, means and lists over all processes of a distributed run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from rewardlab.losses.policy_gradient import Normalization, step_weights

Rows = TypeVar("Rows", bound="tuple[Tensor, ...]")


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
            parameter.grad = across_processes(parameter.grad) / process_count()


def relative_share(count: Tensor) -> Tensor:
    """Return this process's count over the mean count of all processes, a scalar.

    Gradients are averaged over processes. A loss that is a mean over this process's items becomes a
    mean over all items when it is multiplied by this share.

    Example:
        >>> relative_share(torch.tensor(7)).item()
        1.0
    """
    own_count = count.float()
    if not is_distributed():
        return (own_count != 0).float()
    return own_count / mean(own_count[None]).clamp_min(1e-8)


def process_count() -> int:
    """Return the number of processes that train together; 1 for one alone."""
    return dist.get_world_size() if is_distributed() else 1


def own_rows(values: Tensor, count: int) -> Tensor:
    """Return this process's rows of what was computed from `gathered` ones.

    Args:
        values: a row for each of all processes' rows.
        count: number of this process's rows.

    Example:
        >>> own_rows(torch.tensor([1.0, 2.0]), 2).tolist()
        [1.0, 2.0]
    """
    if not is_distributed():
        return values
    before: int = sum(from_all_processes(count)[: dist.get_rank()])
    return values[before : before + count]


def own_places(count: int, group: int = 1) -> Tensor:
    """Return where this process's rows stand among those of all processes, int64 [B].

    The order is that of one process with the joint batch, whose groups the loader gives to the
    processes in turn; where processes have different numbers of rows it is that of their ranks.

    Args:
        count: number of this process's rows.
        group: rows that lie together, such as the samples of a prompt.

    Example:
        >>> own_places(3).tolist()
        [0, 1, 2]
    """
    counts = from_all_processes(count)
    rank = dist.get_rank() if is_distributed() else 0
    rows = torch.arange(count)
    if count % group or len(set(counts)) > 1:
        before: int = sum(counts[:rank])
        return rows + before
    in_group = rows % group
    joint_group = rows // group * len(counts) + rank
    return joint_group * group + in_group


def joint_batch(values: Tensor) -> Tensor:
    """Return the rows of every process's `values`, for a loss that is not a mean over rows.

    This process's own rows have a gradient, times the number of processes. Gradients are averaged
    over processes, so the average is the gradient of the loss of all rows together.

    Example:
        >>> values = torch.tensor([2.0], requires_grad=True)
        >>> joint_batch(values).sum().square().backward()
        >>> values.grad.item()
        4.0
    """
    if not is_distributed():
        return values
    parts = from_all_processes(values.detach().cpu())
    parts = [part.to(values.device) for part in parts]
    no_change = values - values.detach()  # 0, with a gradient
    parts[dist.get_rank()] = parts[dist.get_rank()] + process_count() * no_change
    return torch.cat(parts)


def gathered(values: Tensor) -> Tensor:
    """Return the rows of every process's `values`, in the order of ranks, without gradient.

    Processes may have different numbers of rows. A process alone gets its own tensor back.

    Example:
        >>> gathered(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    if not is_distributed():
        return values
    parts: list[Tensor] = from_all_processes(values.detach().cpu())
    return torch.cat(parts).to(values.device)


def joint_rows(parts: Sequence[Rows], numbers: Sequence[Tensor | None]) -> Rows:
    """Return batches of all processes as one, on the CPU, in which no row comes twice.

    A loader fills the last batches up from the start of the data, so that all processes have
    equally many; such rows count once here. A process alone keeps all its rows, in their order.

    Args:
        parts: batches of this process, as NamedTuples of tensors with as many rows.
        numbers: int64 [B], the row numbers of each batch; None where the data number none, and
            every row counts.

    Example:
        >>> from typing import NamedTuple
        >>> class Held(NamedTuple):
        ...     scores: Tensor
        >>> batches = [Held(torch.tensor([1.0])), Held(torch.tensor([2.0]))]
        >>> joint_rows(batches, [torch.tensor([0]), torch.tensor([1])]).scores.tolist()
        [1.0, 2.0]
    """
    columns = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    if is_distributed():
        columns = [gathered(column) for column in columns]
        rows = [part for part in numbers if part is not None]
        if len(rows) == len(numbers):
            first_rows = _first_of_each(gathered(torch.cat(rows).cpu()))
            columns = [column[first_rows] for column in columns]
    kind: Any = type(parts[0])
    joined: Rows = kind(*columns)
    return joined


def _first_of_each(numbers: Tensor) -> Tensor:
    """Return where each number comes first, in the order of the numbers."""
    order = numbers.argsort(stable=True)
    in_order = numbers[order]
    is_first = torch.ones(len(numbers), dtype=torch.bool)
    is_first[1:] = in_order[1:] != in_order[:-1]
    return order[is_first]


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
