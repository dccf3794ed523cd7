"""What the conformance classes check alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_column(column: Tensor, shape: Sequence[int]) -> None:
    """Fail if numbers are of another shape, not float32 or not finite."""
    assert list(column.shape) == list(shape), (
        f"expected the shape {list(shape)}; got {list(column.shape)}"
    )
    assert column.dtype == torch.float32, f"expected float32; got {column.dtype}"
    assert torch.isfinite(column).all(), "expected finite numbers only"
