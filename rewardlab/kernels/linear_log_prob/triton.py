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


@triton.jit
def _tanh(x):
    """Tanh by 1 - 2/(e^2x + 1), which cancels near 0, and there by its series: within 3e-7 of
    itself.
    """
    square = x * x
    series = x * (
        1.0
        + square
        * (-0.3333333333333333 + square * (0.13333333333333333 - square * 0.05396825396825397))
    )
    power = tl.exp2(tl.where(x > 20.0, 20.0, x) * (2.0 * LOG2E))
    return tl.where(tl.abs(x) < 0.2, series, 1.0 - 2.0 / (power + 1.0))


@triton.jit
def finish_logits(z, bias, cold, softcap, BIAS: tl.constexpr, CAP: tl.constexpr, HOT: tl.constexpr):
    if BIAS:
        z += bias
    if CAP:
        z = _tanh(z * (1.0 / softcap)) * softcap
    if HOT:
        z *= cold
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
    """Add a tile, of the words from `begin` on, to the statistics of its rows: one program a row."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(TARGETS + row) - begin
    score = tl.load(SCORE + row)
    peak = tl.load(PEAK + row)
    mass = tl.load(MASS + row)
    moment = 0.0
    if ENTROPY:
        moment = tl.load(MOMENT + row)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < columns
        z = tl.load(PRODUCTS + row * stride + column, mask=inside, other=0.0).to(tl.float32)
        bias = 0.0
        if BIAS:
            bias = tl.load(BIAS_OF + column, mask=inside, other=0.0).to(tl.float32)
        z = tl.where(inside, finish_logits(z, bias, cold, softcap, BIAS, CAP, HOT), -float("inf"))
        score += tl.sum(tl.where(inside & (column == place), z, 0.0), 0)
        top = tl.maximum(peak, tl.max(z, 0))
        shift = peak - top
        z = z - top
        fall = tl.exp2(shift * LOG2E)
        share = tl.exp2(z * LOG2E)
        if ENTROPY:
            moment = fall * (moment + mass * shift) + tl.sum(
                share * tl.where(z < LOWEST, 0.0, z), 0
            )
        mass = mass * fall + tl.sum(share, 0)
        peak = top
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
    """Write the gradient by the products of one block of one row. OUT may be PRODUCTS, if SOME is
    false.
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
    share = tl.exp2((shifted - tl.load(LOG_MASS + row)) * LOG2E)
    if OF_ENTROPY:
        centred = tl.where(shifted < LOWEST, 0.0, shifted - tl.load(MEAN + row))
        gradient = share * (slope - tl.load(H + row) * centred)
    else:
        gradient = share * slope
    gradient += tl.where(column == tl.load(TARGETS + row) - begin, a, 0.0)
    if HOT:
        gradient *= cold
    if CAP:
        bend = z / (cold * softcap)
        gradient *= 1.0 - bend * bend
    tl.store(OUT + out_row * out_stride + column, gradient.to(OUT.dtype.element_ty), mask=inside)


def blocks(device: torch.device, gradient: bool) -> int:
    """How many times the tile's size these steps take: itself, and its gradient if that is wanted."""
    return 1 + gradient


def finished(products: Tensor, curve: Curve) -> Tensor:
    """The products as they are: the kernels make logits of them on the fly."""
    return products


def add(products: Tensor, curve: Curve, targets: Tensor, first: int, running: Running) -> None:
    """Add a tile to what is known of its rows, in place; see `eager.add`."""
    rows, columns = products.shape
    if not rows:
        return
    block = _block(columns)
    moment = running.moment
    with on(products.device):
        row_stats[(rows,)](
            products, products.stride(0), pointer(curve.bias, products), targets, first, running.score, running.peak,
            running.mass, pointer(moment, products), columns, *numbers(curve), **flags(curve),
            ENTROPY=moment is not None, BLOCK=block, num_warps=8 if block > 1024 else 4, enable_fp_fusion=True,
        )  # fmt: skip


def gradient(
    products: Tensor,
    curve: Curve,
    targets: Tensor,
    first: int,
    known: Statistics,
    upstream: Upstream,
    rows: Tensor | None,
    kind: torch.dtype,
) -> Tensor:
    """The loss's gradient by the products; see `eager.gradient`. In the tile's own memory if it is
    of that type and whole.
    """
    columns = products.shape[1]
    count = len(products) if rows is None else len(rows)
    in_place = rows is None and kind == products.dtype
    out = products if in_place else products.new_empty(count, columns, dtype=kind)
    if not count:
        return out
    a, b, h = (None if column is None else column.contiguous() for column in upstream)
    block = min(2048, _block(columns))
    with on(products.device):
        dlogits[(count, triton.cdiv(columns, block))](
            products, products.stride(0), out, out.stride(0), pointer(rows, products), pointer(curve.bias, products), targets,
            first, *known, a, pointer(b, products), pointer(h, products), columns, *numbers(curve), **flags(curve),
            SOME=rows is not None, OF_LSE=b is not None, OF_ENTROPY=h is not None, BLOCK=block, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
    return out


def _block(columns: int) -> int:
    return min(4096, max(64, 1 << (columns - 1).bit_length()))


def pointer(given: Tensor | None, other: Tensor) -> Tensor:
    """A pointer that is never read, where there is none."""
    return other if given is None else given.contiguous()


def numbers(curve: Curve) -> tuple[float, float]:
    """What the kernels multiply by: a temperature's inverse, and the soft cap."""
    return 1.0 / curve.temperature, float(1.0 if curve.softcap is None else curve.softcap)


def flags(curve: Curve) -> dict[str, bool]:
    return {
        "BIAS": curve.bias is not None,
        "CAP": curve.softcap is not None,
        "HOT": curve.temperature != 1,
    }
