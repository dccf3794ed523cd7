"""Squared errors on CUDA: one read of each operand forwards, one backwards, no atomics.

A row is cut into parts of a fixed size whatever the batch. Each part's sum is written, and a second
launch adds a row's parts in order. So a row's error is the same bits in any batch. Imported only
when it runs.
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
    """Return mean((prediction - target)²) of each row, float32 [len(predictions), B].

    There are one or two predictions.
    """
    count = len(predictions)
    rows = len(target)
    errors = torch.empty((count, rows), dtype=torch.float32, device=target.device)
    if not rows:
        return errors
    first = _flat(predictions[0])
    last = first if count == 1 else _flat(predictions[1])
    flat_target = _flat(target)
    width = flat_target.shape[1]
    parts = triton.cdiv(width, PART)
    sums = torch.empty((count, rows, parts), dtype=torch.float32, device=target.device)
    with on(target.device):
        part_sum_kernel[(rows * parts,)](
            first,
            last,
            flat_target,
            sums,
            rows,
            width,
            parts,
            first.stride(0),
            last.stride(0),
            flat_target.stride(0),
            TWO=count == 2,
            BLOCK=BLOCK,
            PART=PART,
            num_warps=WARPS,
        )
        row_sum_kernel[(count * rows,)](sums, errors, parts, 1 / width, BLOCK=1024, num_warps=WARPS)
    return errors


def scaled_difference(prediction: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    """Return coefficients [B] times (prediction - target), in the prediction's type, contiguous."""
    result = torch.empty(prediction.shape, dtype=prediction.dtype, device=prediction.device)
    if not result.numel():
        return result
    flat_prediction = _flat(prediction)
    flat_target = _flat(target)
    rows, width = flat_prediction.shape
    parts = triton.cdiv(width, BLOCK)
    with on(prediction.device):
        difference_kernel[(rows * parts,)](
            flat_prediction,
            flat_target,
            coefficients.contiguous(),
            result,
            width,
            parts,
            flat_prediction.stride(0),
            flat_target.stride(0),
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    return result


def _flat(operand: Tensor) -> Tensor:
    """Return [B, ...] as [B, n] whose rows are dense; a copy only if they are not."""
    flat = operand.flatten(1)
    return flat if flat.stride(1) == 1 else flat.contiguous()


@triton.jit
def part_sum_kernel(
    Prediction,
    Reference,
    Target,
    Sums,
    rows,
    width,
    parts,
    prediction_stride,
    reference_stride,
    target_stride,
    TWO: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
):
    """Write the sum of squared errors of one part of one row of Prediction.

    If TWO, write that of Reference too.
    """
    program = tl.program_id(0)
    row = (program // parts).to(tl.int64)
    first = (program % parts).to(tl.int64) * PART
    offset = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    reference_total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, PART, BLOCK):
        column = first + start + offset
        inside = column < width
        target_pointers = Target + row * target_stride + column
        target = tl.load(target_pointers, mask=inside, other=0.0).to(tl.float32)
        prediction_pointers = Prediction + row * prediction_stride + column
        prediction = tl.load(prediction_pointers, mask=inside, other=0.0).to(tl.float32)
        total += (prediction - target) * (prediction - target)
        if TWO:
            reference_pointers = Reference + row * reference_stride + column
            reference = tl.load(reference_pointers, mask=inside, other=0.0).to(tl.float32)
            reference_total += (reference - target) * (reference - target)
    tl.store(Sums + program, tl.sum(total, 0))
    if TWO:
        tl.store(Sums + rows * parts + program, tl.sum(reference_total, 0))


@triton.jit
def row_sum_kernel(Sums, Errors, parts, scale, BLOCK: tl.constexpr):
    """Write the scaled sum of a row's parts."""
    row = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, parts, BLOCK):
        inside = start + offset < parts
        pointers = Sums + row * parts + start + offset
        total += tl.load(pointers, mask=inside, other=0.0)
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
    """Write Coefficient · (Prediction - Target) of one block of one row."""
    program = tl.program_id(0)
    row = (program // parts).to(tl.int64)
    column = (program % parts).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    prediction_pointers = Prediction + row * prediction_stride + column
    prediction = tl.load(prediction_pointers, mask=inside, other=0.0).to(tl.float32)
    target_pointers = Target + row * target_stride + column
    target = tl.load(target_pointers, mask=inside, other=0.0).to(tl.float32)
    coefficient = tl.load(Coefficients + row).to(tl.float32)
    result_pointers = Result + row * width + column
    difference = coefficient * (prediction - target)
    tl.store(result_pointers, difference.to(Result.dtype.element_ty), mask=inside)
