"""Squared errors on CUDA: one read of each operand forwards, one backwards, no atomics. Imported
only when it runs.

A row is cut into parts of a fixed size whatever the batch; each part's sum is written, and a second
launch adds a row's parts in order. So a row's error is the same bits in any batch.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rewardlab.kernels.dispatch import on

BLOCK = 2048  # numbers that a program holds at once
PART = 4 * BLOCK  # numbers that a program adds up
WARPS = 4


def squared_errors(predictions: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return mean((prediction - target)²) of each prediction's rows, float32 [len(predictions), B]."""
    count = len(predictions)
    rows = len(target)
    errors = torch.empty((count, rows), dtype=torch.float32, device=target.device)
    if not rows:
        return errors
    flat = [_flat(operand) for operand in (*predictions, target)]
    width = flat[-1].shape[1]
    parts = triton.cdiv(width, PART)
    sums = torch.empty((count, rows, parts), dtype=torch.float32, device=target.device)
    with on(target.device):
        part_sum_kernel[(rows * parts,)](
            flat[0], flat[-2], flat[-1], sums, rows, width, parts, flat[0].stride(0), flat[-2].stride(0), flat[-1].stride(0),
            TWO=count == 2, BLOCK=BLOCK, PART=PART, num_warps=WARPS,
        )  # fmt: skip
        row_sum_kernel[(count * rows,)](sums, errors, parts, 1 / width, BLOCK=1024, num_warps=WARPS)
    return errors


def scaled_difference(prediction: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    """Return coefficients [B] times (prediction - target), in the prediction's type, contiguous."""
    result = torch.empty(prediction.shape, dtype=prediction.dtype, device=prediction.device)
    if not result.numel():
        return result
    flat = _flat(prediction), _flat(target)
    rows, width = flat[0].shape
    parts = triton.cdiv(width, BLOCK)
    with on(prediction.device):
        difference_kernel[(rows * parts,)](
            *flat, coefficients.contiguous(), result, width, parts, flat[0].stride(0), flat[1].stride(0),
            BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return result


def _flat(operand: Tensor) -> Tensor:
    """[B, ...] as [B, n] whose rows are dense; a copy only if they are not."""
    flat = operand.flatten(1)
    return flat if flat.stride(1) == 1 else flat.contiguous()


@triton.jit
def part_sum_kernel(
    Prediction, Reference, Target, Sums, rows, width, parts, prediction_stride, reference_stride, target_stride,
    TWO: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Sum of squared errors of one part of one row, of Prediction and, if TWO, of Reference."""
    program = tl.program_id(0)
    row = (program // parts).to(tl.int64)
    first = (program % parts).to(tl.int64) * PART
    place = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    other_total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, PART, BLOCK):
        column = first + start + place
        inside = column < width
        target = tl.load(Target + row * target_stride + column, mask=inside, other=0.0).to(
            tl.float32
        )
        value = tl.load(Prediction + row * prediction_stride + column, mask=inside, other=0.0).to(
            tl.float32
        )
        total += (value - target) * (value - target)
        if TWO:
            other = tl.load(Reference + row * reference_stride + column, mask=inside, other=0.0).to(
                tl.float32
            )
            other_total += (other - target) * (other - target)
    tl.store(Sums + program, tl.sum(total, 0))
    if TWO:
        tl.store(Sums + rows * parts + program, tl.sum(other_total, 0))


@triton.jit
def row_sum_kernel(Sums, Errors, parts, scale, BLOCK: tl.constexpr):
    """Add a row's parts, and scale."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, parts, BLOCK):
        total += tl.load(Sums + row * parts + start + place, mask=start + place < parts, other=0.0)
    tl.store(Errors + row, tl.sum(total, 0) * scale)


@triton.jit
def difference_kernel(
    Prediction,
    Target,
    Coefficients,
    Result,
    width,
    parts,
    prediction_stride,
    target_stride,
    BLOCK: tl.constexpr,
):
    """Coefficient · (Prediction - Target) of one block of one row."""
    program = tl.program_id(0)
    row = (program // parts).to(tl.int64)
    column = (program % parts).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(Prediction + row * prediction_stride + column, mask=inside, other=0.0).to(
        tl.float32
    )
    target = tl.load(Target + row * target_stride + column, mask=inside, other=0.0).to(tl.float32)
    coefficient = tl.load(Coefficients + row).to(tl.float32)
    tl.store(
        Result + row * width + column,
        (coefficient * (value - target)).to(Result.dtype.element_ty),
        mask=inside,
    )
