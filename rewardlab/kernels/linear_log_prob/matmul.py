"""Matrix products from float32 accumulators that are never rounded, and the types they are in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CONVERTED = 2**22  # numbers of a weight that are converted at a time


class Converted(NamedTuple):
    """A slice of a weight's rows, which are the products' columns, in another type."""

    columns: slice
    weight: Tensor


def statistics_type(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return float64 for float64 operands, else float32."""
    operand_type = torch.promote_types(hidden.dtype, weight.dtype)
    return torch.promote_types(operand_type, torch.float32)


def product_type(hidden: Tensor, weight: Tensor, *, half: bool = True) -> torch.dtype:
    """Return the type that products are taken in.

    It is the operands' own where the device keeps a float32 accumulator of them. Elsewhere it is
    float32. Gradients never are float16 (`half=False`): what is small in them would vanish.
    """
    dtype = hidden.dtype
    native = dtype == torch.bfloat16 or (half and dtype == torch.float16)
    if native and hidden.is_cuda and dtype == weight.dtype:
        return dtype
    return statistics_type(hidden, weight)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a · b from a float32 accumulator, in a fresh tensor and in b's type of arithmetic."""
    a = a.to(b.dtype)
    if b.dtype.itemsize == 2:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a @ b


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a · b to `total` in float32, in place.

    Example:
        >>> add_product(total := torch.ones(1, 1), torch.ones(1, 2), torch.ones(2, 1))
        >>> total
        tensor([[3.]])
    """
    if b.dtype.itemsize == 2:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a, b)


def write_products(hidden: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write hidden · weightᵀ [N, V] into `out`; a weight of another type is converted in slices."""
    dtype = product_type(hidden, weight)
    hidden = hidden.to(dtype)
    if dtype.itemsize == 2:
        torch.mm(hidden, weight.T, out_dtype=torch.float32, out=out)
        return
    for part in converted(weight, dtype):
        torch.mm(hidden, part.weight.T, out=out[:, part.columns])


def converted(weight: Tensor, dtype: torch.dtype) -> Iterator[Converted]:
    """Yield slices of a weight in `dtype`; the whole weight, if it is of that type."""
    count = len(weight)
    size = count
    if weight.dtype != dtype:
        width = max(1, weight.shape[1])
        size = max(1, CONVERTED // width)
    for columns in slices(count, size):
        yield Converted(columns, weight[columns].to(dtype))


def autocast_operands(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the operands in autocast's type, if it is on, as torch's linear layers have them.

    float64 operands stay.
    """
    device = hidden.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(device)
    hidden = _cast(hidden, dtype)
    weight = _cast(weight, dtype)
    if bias is not None:
        bias = _cast(bias, dtype)
    return hidden, weight, bias


def _cast(operand: Tensor, dtype: torch.dtype) -> Tensor:
    if operand.dtype == torch.float64:
        return operand
    return operand.to(dtype)


def slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` numbers of a range; the last one may be shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
