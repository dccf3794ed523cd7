"""The definition of discounted_sum: one step after the other, from the last."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(values: Tensor, decay: Tensor | float) -> Tensor:
    """Return y_t = x_t + a_t · y_(t+1) of values x [B, T] and a decay a, [B, T] or a number.

    Example:
        >>> reference(torch.ones(1, 3), 1.0).tolist()
        [[3.0, 2.0, 1.0]]
    """
    columns: list[Tensor] = []
    for step in reversed(range(values.shape[1])):
        total = values[:, step]
        if columns:
            factor = decay[:, step] if isinstance(decay, Tensor) else decay
            total = total + factor * columns[-1]
        columns.append(total)
    columns.reverse()
    return torch.stack(columns, 1)
