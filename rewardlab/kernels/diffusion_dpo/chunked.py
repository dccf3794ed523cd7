"""Squared errors in plain torch, on any device: piece after piece, so that nothing of an operand's
size is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

PIECE = (
    2**16
    # numbers, of which a piece holds two or three float32 blocks: they fit a core's second-level cache
)


def squared_errors(predictions: Sequence[Tensor], target: Tensor, kind: torch.dtype) -> Tensor:
    """Return mean((prediction - target)²) of each prediction's rows, [len(predictions), B] in
    `kind`.

    Example:
        >>> squared_errors([torch.ones(1, 3), torch.zeros(1, 3)], torch.zeros(1, 3), torch.float32).tolist()
        [[1.0], [0.0]]
    """
    sums = torch.zeros(len(predictions), len(target), dtype=kind, device=target.device)
    for rows, columns in _pieces(target):
        goal = _piece(target, rows, columns).to(kind)
        for prediction, total in zip(predictions, sums, strict=True):
            total[rows] += (_piece(prediction, rows, columns) - goal).square_().sum(1)
    return sums.div_(max(1, target[:1].numel()))


def scaled_difference(prediction: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    """Return coefficients [B] times (prediction - target), in the prediction's type, contiguous.

    Example:
        >>> scaled_difference(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([3.0])).tolist()
        [[3.0, 3.0]]
    """
    result = prediction.new_empty(prediction.shape)
    for rows, columns in _pieces(prediction):
        difference = _piece(prediction, rows, columns).to(coefficients.dtype) - _piece(
            target, rows, columns
        )
        result[rows].flatten(1)[:, columns] = difference.mul_(coefficients[rows, None])
    return result


def _pieces(operand: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of pieces; whole rows where they are small."""
    width = operand[:1].numel()
    height = max(1, PIECE // max(1, width))
    for top in range(0, len(operand), height):
        for left in range(0, width, PIECE):
            yield slice(top, top + height), slice(left, left + PIECE)


def _piece(operand: Tensor, rows: slice, columns: slice) -> Tensor:
    return operand[rows].flatten(1)[:, columns]
