"""The two steps on a tile of logits in one pass each, as Triton kernels.

They take a tile of products that a library's matrix product left in memory and apply bias, soft cap
and temperature on the fly: each number is read once and, by the second, written once. No kernel
adds by atomics, so all repeat themselves to the bit.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rewardlab.kernels.dispatch import on
from rewardlab.kernels.linear_log_prob.eager import Curve, Running, Statistics, Upstream

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)
# of the series of tanh: x - x³/3 + 2x⁵/15 - 17x⁷/315
TANH_3 = tl.constexpr(-0.3333333333333333)
TANH_5 = tl.constexpr(0.13333333333333333)
TANH_7 = tl.constexpr(0.05396825396825397)


@triton.jit
def _tanh(x):
    """Return tanh by 1 - 2/(e^2x + 1), which cancels near 0, and there by its series.

    It is within 3e-7 of itself.
    """
    square = x * x
    series = x * (1.0 + square * (TANH_3 + square * (TANH_5 - square * TANH_7)))
    power = tl.exp2(tl.where(x > 20.0, 20.0, x) * (2.0 * LOG2E))
    return tl.where(tl.abs(x) < 0.2, series, 1.0 - 2.0 / (power + 1.0))


@triton.jit
def finish_logits(
    z,
    bias,
    inverse_temperature,
    softcap,
    BIAS: tl.constexpr,
    CAP: tl.constexpr,
    HOT: tl.constexpr,
):
    """Return the logits of products z."""
    if BIAS:
        z += bias
    if CAP:
        z = _tanh(z * (1.0 / softcap)) * softcap
    if HOT:
        z *= inverse_temperature
    return z


@triton.jit(do_not_specialize=["begin"])
def row_stats(
    PRODUCTS,
    stride,
    BIAS_OF,
    TARGETS,
    begin,
    SCORE,
    PEAK,
    MASS,
    MOMENT,
    columns,
    cold,
    softcap,
    BIAS: tl.constexpr,
    CAP: tl.constexpr,
    HOT: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add a tile to the sums of its rows, one program a row.

    Its first column is the token `begin`; `cold` is the inverse temperature.
    """
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(TARGETS + row) - begin
    score = tl.load(SCORE + row)
    peak = tl.load(PEAK + row)
    mass = tl.load(MASS + row)
    moment = 0.0
    if ENTROPY:
        moment = tl.load(MOMENT + row)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < columns
        pointers = PRODUCTS + row * stride + column
        z = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
        bias = 0.0
        if BIAS:
            bias = tl.load(BIAS_OF + column, mask=inside, other=0.0).to(tl.float32)
        z = finish_logits(z, bias, cold, softcap, BIAS, CAP, HOT)
        z = tl.where(inside, z, -float("inf"))
        score += tl.sum(tl.where(inside & (column == target), z, 0.0), 0)
        new_peak = tl.maximum(peak, tl.max(z, 0))
        shift = peak - new_peak
        z = z - new_peak
        shrinkage = tl.exp2(shift * LOG2E)
        exponential = tl.exp2(z * LOG2E)
        if ENTROPY:
            moved = shrinkage * (moment + mass * shift)
            moment = moved + tl.sum(exponential * tl.where(z < LOWEST, 0.0, z), 0)
        mass = mass * shrinkage + tl.sum(exponential, 0)
        peak = new_peak
    tl.store(SCORE + row, score)
    tl.store(PEAK + row, peak)
    tl.store(MASS + row, mass)
    if ENTROPY:
        tl.store(MOMENT + row, moment)


@triton.jit(do_not_specialize=["begin"])
def dlogits(
    PRODUCTS,
    stride,
    OUT,
    out_stride,
    ROWS,
    BIAS_OF,
    TARGETS,
    begin,
    PEAK,
    LOG_MASS,
    MEAN,
    A,
    B,
    H,
    columns,
    cold,
    softcap,
    BIAS: tl.constexpr,
    CAP: tl.constexpr,
    HOT: tl.constexpr,
    SOME: tl.constexpr,
    OF_LSE: tl.constexpr,
    OF_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient by the products of one block of one row.

    A, B and H are the gradients by the row's log-probability, log-sum-exp and entropy. OUT may be
    PRODUCTS, if SOME is false.
    """
    out_row = tl.program_id(0).to(tl.int64)
    row = out_row
    if SOME:
        row = tl.load(ROWS + out_row)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    z = tl.load(PRODUCTS + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    bias = 0.0
    if BIAS:
        bias = tl.load(BIAS_OF + column, mask=inside, other=0.0).to(tl.float32)
    z = finish_logits(z, bias, cold, softcap, BIAS, CAP, HOT)
    a = tl.load(A + row)
    slope = -a
    if OF_LSE:
        slope += tl.load(B + row)
    shifted = z - tl.load(PEAK + row)
    probability = tl.exp2((shifted - tl.load(LOG_MASS + row)) * LOG2E)
    if OF_ENTROPY:
        centered = tl.where(shifted < LOWEST, 0.0, shifted - tl.load(MEAN + row))
        gradient = probability * (slope - tl.load(H + row) * centered)
    else:
        gradient = probability * slope
    is_target = column == tl.load(TARGETS + row) - begin
    gradient += tl.where(is_target, a, 0.0)
    if HOT:
        gradient *= cold
    if CAP:
        capped = z / (cold * softcap)
        gradient *= 1.0 - capped * capped
    tl.store(OUT + out_row * out_stride + column, gradient.to(OUT.dtype.element_ty), mask=inside)


def blocks(device: torch.device, gradient: bool) -> int:
    """Return how many times the tile's size these steps take: itself, and a wanted gradient."""
    return 1 + gradient


def finished(products: Tensor, curve: Curve) -> Tensor:
    """Return the products as they are: the kernels make logits of them on the fly."""
    return products


def add(
    products: Tensor, curve: Curve, targets: Tensor, first_token: int, running: Running
) -> None:
    """Add a tile to the sums of its rows, in place; see `eager.add`."""
    rows, columns = products.shape
    if not rows:
        return
    block = _block(columns)
    with on(products.device):
        row_stats[(rows,)](
            products,
            products.stride(0),
            pointer(curve.bias, products),
            targets,
            first_token,
            running.score,
            running.peak,
            running.mass,
            pointer(running.moment, products),
            columns,
            *numbers(curve),
            **flags(curve),
            ENTROPY=running.moment is not None,
            BLOCK=block,
            num_warps=8 if block > 1024 else 4,
            enable_fp_fusion=True,
        )


def gradient(
    products: Tensor,
    curve: Curve,
    targets: Tensor,
    first_token: int,
    statistics: Statistics,
    upstream: Upstream,
    rows: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return the loss's gradient by the products; see `eager.gradient`.

    It is in the tile's own memory if it is of that type and whole.
    """
    columns = products.shape[1]
    count = len(products) if rows is None else len(rows)
    out = products
    if rows is not None or dtype != products.dtype:
        out = products.new_empty(count, columns, dtype=dtype)
    if not count:
        return out
    block = min(2048, _block(columns))
    with on(products.device):
        dlogits[(count, triton.cdiv(columns, block))](
            products,
            products.stride(0),
            out,
            out.stride(0),
            pointer(rows, products),
            pointer(curve.bias, products),
            targets,
            first_token,
            *statistics,
            upstream.log_prob.contiguous(),
            pointer(upstream.log_sum_exp, products),
            pointer(upstream.entropy, products),
            columns,
            *numbers(curve),
            **flags(curve),
            SOME=rows is not None,
            OF_LSE=upstream.log_sum_exp is not None,
            OF_ENTROPY=upstream.entropy is not None,
            BLOCK=block,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


def _block(columns: int) -> int:
    """Return the power of two from 64 to 4096 that is next above the columns."""
    power = 1 << (columns - 1).bit_length()
    return min(4096, max(64, power))


def pointer(operand: Tensor | None, stand_in: Tensor) -> Tensor:
    """Return the operand, dense; without one the stand-in, a pointer that is never read."""
    return stand_in if operand is None else operand.contiguous()


def numbers(curve: Curve) -> tuple[float, float]:
    """Return what the kernels multiply by: a temperature's inverse, and the soft cap."""
    softcap = 1.0 if curve.softcap is None else float(curve.softcap)
    return 1.0 / curve.temperature, softcap


def flags(curve: Curve) -> dict[str, bool]:
    """Return which parts of the curve the kernels take."""
    return {
        "BIAS": curve.bias is not None,
        "CAP": curve.softcap is not None,
        "HOT": curve.temperature != 1,
    }
