"""The definition of squared_error."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(prediction: Tensor, target: Tensor) -> Tensor:
    """Return mean((prediction - target)²) [B], in float64 if an operand is, else in float32.

    Example:
        >>> reference(torch.ones(1, 3), torch.zeros(1, 3)).tolist()
        [1.0]
    """
    operand_type = torch.promote_types(prediction.dtype, target.dtype)
    error_type = torch.promote_types(operand_type, torch.float32)
    difference = prediction.to(error_type) - target.to(error_type)
    return difference.square().flatten(1).mean(1)
