"""Squared errors in plain torch, on any device, piece after piece.

So no temporary of an operand's size is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# numbers, of which a piece holds two or three float32 blocks: they fit a core's second-level cache
PIECE = 2**16


class _Piece(NamedTuple):
    rows: slice
    columns: slice

    def of(self, operand: Tensor) -> Tensor:
        """Return this piece of an operand [B, ...], as a matrix."""
        rows = operand[self.rows].flatten(1)
        return rows[:, self.columns]


def squared_errors(predictions: Sequence[Tensor], target: Tensor, dtype: torch.dtype) -> Tensor:
    """Return mean((prediction - target)²) of each prediction's rows, [len(predictions), B].

    Example:
        >>> one, zero = torch.ones(1, 3), torch.zeros(1, 3)
        >>> squared_errors([one, zero], zero, torch.float32).tolist()
        [[1.0], [0.0]]
    """
    sums = torch.zeros(len(predictions), len(target), dtype=dtype, device=target.device)
    for piece in _pieces(target):
        target_piece = piece.of(target).to(dtype)
        for prediction, total in zip(predictions, sums, strict=True):
            difference = piece.of(prediction) - target_piece
            total[piece.rows] += difference.square_().sum(1)
    width = target[:1].numel()
    return sums.div_(max(1, width))


def scaled_difference(prediction: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    """Return coefficients [B] times (prediction - target), in the prediction's type, contiguous.

    Example:
        >>> scaled_difference(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([3.0])).tolist()
        [[3.0, 3.0]]
    """
    result = prediction.new_empty(prediction.shape)
    for piece in _pieces(prediction):
        prediction_piece = piece.of(prediction).to(coefficients.dtype)
        difference = prediction_piece - piece.of(target)
        difference.mul_(coefficients[piece.rows, None])
        piece.of(result).copy_(difference)
    return result


def _pieces(operand: Tensor) -> Iterator[_Piece]:
    """Yield the pieces of an operand; whole rows where they are small."""
    width = operand[:1].numel()
    height = max(1, PIECE // max(1, width))
    for top in range(0, len(operand), height):
        rows = slice(top, top + height)
        for left in range(0, width, PIECE):
            columns = slice(left, left + PIECE)
            yield _Piece(rows, columns)
