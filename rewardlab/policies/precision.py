"""The precision of a network's arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context of arithmetic in `dtype`: autocast, or nothing for float32.

    Example:
        >>> with arithmetic(torch.device("cpu"), torch.bfloat16):
        ...     torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)
