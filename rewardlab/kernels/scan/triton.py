"""discounted_sum in one launch: a program walks back over its rows in blocks of steps, each block
an associative scan.

Imported only when it runs.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rewardlab.kernels.dispatch import on

# steps of a block -> (rows of a program, warps): about 1000 numbers a program
CONFIGURATIONS = {16: (32, 4), 64: (16, 4), 256: (4, 4), 1024: (1, 4)}
LARGEST = tl.constexpr(3e38)


def discounted_sum(
    values: Tensor, decay: Tensor | None, constant: float, transposed: bool
) -> Tensor:
    """Return y_t = x_t + a_t · y_(t+1), or transposed y_t = x_t + a_(t-1) · y_(t-1), of float32
    values [B, T], T > 0.
    """
    rows, steps = values.shape
    values = values if values.stride(1) == 1 else values.contiguous()
    decay = decay if decay is None or decay.stride(1) == 1 else decay.contiguous()
    sums = torch.empty((rows, steps), dtype=torch.float32, device=values.device)
    block = next((size for size in CONFIGURATIONS if size >= steps), max(CONFIGURATIONS))
    row_block, warps = CONFIGURATIONS[block]
    with on(values.device):
        scan_kernel[(triton.cdiv(rows, row_block),)](
            values,
            values if decay is None else decay,
            sums,
            rows,
            steps,
            values.stride(0),
            0 if decay is None else decay.stride(0),
            constant,
            TRANSPOSED=transposed,
            CONSTANT=decay is None,
            ROWS=row_block,
            BLOCK=block,
            num_warps=warps,
        )
    return sums


@triton.jit
def _then(decay, total, next_decay, next_total):
    """First (decay, total), then the next: what came before is discounted by the next one's decay.

    A product of decays stays finite, so that nothing, discounted by it, stays nothing; NaN stays
    NaN.
    """
    product = decay * next_decay
    product = tl.where(product > LARGEST, LARGEST, product)
    product = tl.where(product < -LARGEST, -LARGEST, product)
    return product, next_total + next_decay * total


@triton.jit
def scan_kernel(
    Values, Decay, Sums, rows, steps, value_stride, decay_stride, constant,
    TRANSPOSED: tl.constexpr, CONSTANT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums along each row of Values [rows, steps], from the last step to the first (from the first
    if TRANSPOSED).
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, BLOCK)
    carried = tl.zeros((ROWS,), tl.float32)
    for start in range(0, steps, BLOCK):
        order = start + place  # 0 is the step that is taken first
        step = order if TRANSPOSED else steps - 1 - order
        inside = (row < rows)[:, None] & (order < steps)[None, :]
        value = tl.load(
            Values + row[:, None] * value_stride + step[None, :], mask=inside, other=0.0
        ).to(tl.float32)
        follows = inside & (order > 0)[None, :]
        if CONSTANT:
            decay = tl.where(follows, constant, 0.0)
        else:
            source = step - 1 if TRANSPOSED else step
            decay = tl.load(
                Decay + row[:, None] * decay_stride + source[None, :], mask=follows, other=0.0
            ).to(tl.float32)
        product, total = tl.associative_scan((decay, value), 1, _then)
        total += product * carried[:, None]
        tl.store(Sums + row[:, None] * steps + step[None, :], total, mask=inside)
        carried = tl.sum(tl.where((place == BLOCK - 1)[None, :], total, 0.0), 1)
