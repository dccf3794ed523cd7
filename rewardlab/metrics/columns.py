"""What every metric does to its operands: check them, and make them float64."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.errors import InputError


def checked_columns(least: int, **columns: Tensor) -> list[Tensor]:
    """Return the columns [N] in float64, detached.

    Raises:
        InputError: if they have no common length N ≥ `least`, or an entry is NaN or infinite.
    """
    shapes = {name: list(values.shape) for name, values in columns.items()}
    first = next(iter(shapes.values()))
    for shape in shapes.values():
        if len(shape) != 1 or shape[0] < least or shape != first:
            names = " and ".join(shapes)
            raise InputError(f"{names} must be [N] with N >= {least}; got {shapes}.")
    return [_finite(values, name) for name, values in columns.items()]


def checked_features(*sets: Tensor, least: int) -> list[Tensor]:
    """Return the sets of rows [N, D] in float64, detached.

    Raises:
        InputError: if they have no common D, a set has fewer than `least` rows, or an entry is NaN
            or infinite.
    """
    shapes = [list(rows.shape) for rows in sets]
    dimensions = shapes[0][1:]
    for shape in shapes:
        if len(shape) != 2 or shape[0] < least or shape[1:] != dimensions:
            raise InputError(
                f"features must be [N, D] with one D and N >= {least} in every set; got {shapes}."
            )
    return [_finite(rows, "features") for rows in sets]


def share_ties(keys: Tensor, values: Tensor) -> Tensor:
    """Return values [N], each replaced by the mean over the rows whose key is the same."""
    _, groups, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts))
    sums.index_add_(0, groups, values)
    means: Tensor = sums / counts
    return means[groups]


def _finite(values: Tensor, name: str) -> Tensor:
    finite = values.isfinite()
    if not finite.all():
        wrong = (~finite).nonzero()
        row = int(wrong[0, 0])
        raise InputError(
            f"{name} must be finite; got {len(wrong)} NaN or infinite entries, first in row {row}."
        )
    return values.detach().double()
