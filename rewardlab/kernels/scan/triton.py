"""discounted_sum in one launch: a program walks back over its rows in blocks of steps.

Each block is an associative scan. Imported only when it runs.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rewardlab.kernels.dispatch import on


class Configuration(NamedTuple):
    """The rows of a program and its warps."""

    rows: int
    warps: int


# by the steps of a block: about 1000 numbers a program
CONFIGURATIONS = {
    16: Configuration(32, 4),
    64: Configuration(16, 4),
    256: Configuration(4, 4),
    1024: Configuration(1, 4),
}
LARGEST = tl.constexpr(3e38)


def discounted_sum(
    values: Tensor, decay: Tensor | None, constant: float, transposed: bool
) -> Tensor:
    """Return y_t = x_t + a_t · y_(t+1), or transposed y_t = x_t + a_(t-1) · y_(t-1).

    Values are float32 [B, T], T > 0.
    """
    rows, steps = values.shape
    values = dense_rows(values)
    # without decays the pointer is never read
    decays = values if decay is None else dense_rows(decay)
    sums = torch.empty((rows, steps), dtype=torch.float32, device=values.device)
    block = block_for(steps)
    configuration = CONFIGURATIONS[block]
    with on(values.device):
        scan_kernel[(triton.cdiv(rows, configuration.rows),)](
            values,
            decays,
            sums,
            rows,
            steps,
            values.stride(0),
            0 if decay is None else decays.stride(0),
            constant,
            TRANSPOSED=transposed,
            CONSTANT=decay is None,
            ROWS=configuration.rows,
            BLOCK=block,
            num_warps=configuration.warps,
        )
    return sums


def dense_rows(operand: Tensor) -> Tensor:
    """Return the operand [B, T] with the numbers of a row side by side; a copy if they are not."""
    return operand if operand.stride(1) == 1 else operand.contiguous()


def block_for(steps: int) -> int:
    """Return the smallest block that holds the steps, or else the largest one."""
    for size in CONFIGURATIONS:
        if size >= steps:
            return size
    return max(CONFIGURATIONS)


@triton.jit
def join(decay, total, next_decay, next_total):
    """Join (decay, total) and the next pair, whose decay discounts what came before.

    A product of decays stays finite, so that nothing, discounted by it, stays nothing; NaN stays
    NaN.
    """
    product = decay * next_decay
    product = tl.where(product > LARGEST, LARGEST, product)
    product = tl.where(product < -LARGEST, -LARGEST, product)
    return product, next_total + next_decay * total


@triton.jit
def scan_kernel(
    Values,
    Decay,
    Sums,
    rows,
    steps,
    value_stride,
    decay_stride,
    constant,
    TRANSPOSED: tl.constexpr,
    CONSTANT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum along each row of Values [rows, steps], from the last step to the first.

    If TRANSPOSED, from the first step to the last.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    offset = tl.arange(0, BLOCK)
    carried = tl.zeros((ROWS,), tl.float32)
    for start in range(0, steps, BLOCK):
        order = start + offset  # 0 is the step that is taken first
        step = order if TRANSPOSED else steps - 1 - order
        inside = (row < rows)[:, None] & (order < steps)[None, :]
        value_pointers = Values + row[:, None] * value_stride + step[None, :]
        value = tl.load(value_pointers, mask=inside, other=0.0).to(tl.float32)
        follows = inside & (order > 0)[None, :]
        if CONSTANT:
            decay = tl.where(follows, constant, 0.0)
        else:
            source = step - 1 if TRANSPOSED else step
            decay_pointers = Decay + row[:, None] * decay_stride + source[None, :]
            decay = tl.load(decay_pointers, mask=follows, other=0.0).to(tl.float32)
        product, total = tl.associative_scan((decay, value), 1, join)
        total += product * carried[:, None]
        sum_pointers = Sums + row[:, None] * steps + step[None, :]
        tl.store(sum_pointers, total, mask=inside)
        last = (offset == BLOCK - 1)[None, :]
        carried = tl.sum(tl.where(last, total, 0.0), 1)
