"""Precision of a network's arithmetic, whatever that of its weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which matrix products are computed in `dtype`; float32 needs none.

    Example:
        >>> layer, rows = torch.nn.Linear(2, 1), torch.ones(1, 2)
        >>> with arithmetic(rows.device, torch.bfloat16):
        ...     layer(rows).dtype
        torch.bfloat16
    """
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which nothing is rounded, inside `arithmetic` or an autocast too.

    Example:
        >>> layer, rows = torch.nn.Linear(2, 1), torch.ones(1, 2)
        >>> with arithmetic(rows.device, torch.bfloat16), full_precision(rows.device):
        ...     layer(rows).dtype
        torch.float32
    """
    return torch.autocast(device.type, enabled=False)
