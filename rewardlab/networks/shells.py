"""Networks without numbers: shapes and precisions alone, to plan memory by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

GIB = 2**30
_ALLOWED: ContextVar[bool] = ContextVar("shells_are_allowed", default=False)


@contextmanager
def shells(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Make networks of a precision without numbers inside the `with` block, on the device meta.

    Example:
        >>> with shells():
        ...     nn.Linear(10**6, 10**6).weight.is_meta
        True
    """
    default = torch.get_default_dtype()
    token = _ALLOWED.set(True)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(default)
        _ALLOWED.reset(token)


@contextmanager
def allowed() -> Iterator[None]:
    """Let loaders take networks without numbers inside the `with` block."""
    token = _ALLOWED.set(True)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def are_allowed() -> bool:
    """Tell whether networks may be without numbers here."""
    return _ALLOWED.get()


def as_fake(network: nn.Module, fake_mode: Any) -> None:
    """Give a network fake tensors for its weights and buffers, as if they were on the CPU.

    Args:
        network: changed in place; tied weights stay tied.
        fake_mode: torch's `FakeTensorMode`.
    """
    tensors: dict[int, Tensor] = {}
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in tensors:
                    tensors[id(tensor)] = _fake(tensor, fake_mode)
                table[name] = tensors[id(tensor)]  # type: ignore[assignment]


def is_fake(tensor: Tensor) -> bool:
    """Tell whether a tensor has no numbers, as in a plan.

    Example:
        >>> is_fake(torch.zeros(1))
        False
    """
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def _fake(tensor: Tensor, fake_mode: Any) -> Tensor:
    with fake_mode:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake
