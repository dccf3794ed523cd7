"""A forward pass that keeps no tile, as Triton kernels.

`flash` takes the products itself, and `combine` adds up its splits. A row's results depend on
nothing but the row, since its tiles and the order of its sums are fixed by V, D and the types: that
is the batch-invariant mode. Nothing is tuned at run time: the shapes are a table. No kernel adds by
atomics.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from rewardlab.kernels.dispatch import on
from rewardlab.kernels.linear_log_prob.eager import Curve, Running
from rewardlab.kernels.linear_log_prob.triton import (
    LOG2E,
    LOWEST,
    finish_logits,
    flags,
    numbers,
    pointer,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SPLIT = 4096  # columns that one program of `flash` walks over
GROUP = 32  # blocks of rows that run side by side, so that their operands stay in the level-2 cache
COMBINED = 128  # rows that one program of `combine` takes


class Shape(NamedTuple):
    """A program of `flash`: rows, columns and depth of its tiles, and how it is compiled."""

    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int
    tma: bool


@triton.jit
def _load_rows(POINTER, stride, row, column, inside):
    """Load columns of rows, 0 outside."""
    pointers = POINTER + row.to(tl.int64)[:, None] * stride + column[None, :]
    return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def _add_logits(z, peak, mass, moment, ENTROPY: tl.constexpr):
    """Return the peak, mass and moment of rows with a tile of logits z more."""
    new_peak = tl.maximum(peak, tl.max(z, 1))
    shift = peak - new_peak
    z = z - new_peak[:, None]
    shrinkage = tl.exp2(shift * LOG2E)
    exponential = tl.exp2(z * LOG2E)
    if ENTROPY:
        moved = shrinkage * (moment + mass * shift)
        moment = moved + tl.sum(exponential * tl.where(z < LOWEST, 0.0, z), 1)
    mass = mass * shrinkage + tl.sum(exponential, 1)
    return new_peak, mass, moment


@triton.jit(do_not_specialize=["count"])
def flash(
    X,
    W,
    x_stride,
    w_stride,
    BIAS_OF,
    TARGETS,
    SCORE,
    PEAK,
    MASS,
    MOMENT,
    count,
    vocabulary,
    depth,
    cold,
    softcap,
    BIAS: tl.constexpr,
    CAP: tl.constexpr,
    HOT: tl.constexpr,
    ENTROPY: tl.constexpr,
    TMA: tl.constexpr,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    TILES: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Write the sums [splits, rows] of a block of rows over TILES tiles of columns.

    The products are taken here, and each block has a program of its own. X and W are tensor
    descriptors (TMA) or pointers to rows without gaps between their numbers. `vocabulary` is the
    vocabulary's size, `cold` the inverse temperature. SIDE blocks of rows are neighbours in the
    order of programs.
    """
    row_blocks = tl.cdiv(count, BM)
    column_blocks = tl.cdiv(vocabulary, BN)
    splits = tl.cdiv(column_blocks, TILES)
    program = tl.program_id(0)
    group_size = SIDE * splits
    first_block = program // group_size * SIDE
    side = tl.minimum(row_blocks - first_block, SIDE)
    position = program % group_size
    block = first_block + position % side
    split = position // side
    row = block * BM + tl.arange(0, BM)
    live = row < count
    target = tl.load(TARGETS + row, mask=live, other=-1).to(tl.int32)
    score = tl.zeros((BM,), tl.float32)
    mass = tl.zeros((BM,), tl.float32)
    moment = tl.zeros((BM,), tl.float32)
    peak = tl.full((BM,), LOWEST, tl.float32)
    offset = tl.arange(0, BN)
    deep = tl.arange(0, BK)
    first_tile = split * TILES
    stop_tile = tl.minimum(first_tile + TILES, column_blocks)
    for tile in range(first_tile, stop_tile):
        start = tile * BN
        column = start + offset
        inside = column < vocabulary
        target_offset = target - start
        z = tl.zeros((BM, BN), tl.float32)
        for k in range(0, tl.cdiv(depth, BK)):
            if TMA:
                x = X.load([block * BM, k * BK])
                w = W.load([start, k * BK])
            else:
                inner = k * BK + deep
                deep_enough = inner[None, :] < depth
                x = _load_rows(X, x_stride, row, inner, live[:, None] & deep_enough)
                w = _load_rows(W, w_stride, column, inner, inside[:, None] & deep_enough)
            if UPCAST:  # the interpreter multiplies bfloat16's bit patterns
                x = x.to(tl.float32)
                w = w.to(tl.float32)
            z = tl.dot(x, tl.trans(w), z, input_precision="ieee")
        bias = 0.0
        if BIAS:
            bias = tl.load(BIAS_OF + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        z = finish_logits(z, bias, cold, softcap, BIAS, CAP, HOT)
        if start + BN > vocabulary:
            z = tl.where(inside[None, :], z, -float("inf"))
        is_target = offset[None, :] == target_offset[:, None]
        score += tl.sum(tl.where(is_target, z, 0.0), 1)
        peak, mass, moment = _add_logits(z, peak, mass, moment, ENTROPY)
    out = split.to(tl.int64) * count + row
    tl.store(SCORE + out, score, mask=live)
    tl.store(PEAK + out, peak, mask=live)
    tl.store(MASS + out, mass, mask=live)
    if ENTROPY:
        tl.store(MOMENT + out, moment, mask=live)


@triton.jit(do_not_specialize=["count"])
def combine(
    SCORES,
    PEAKS,
    MASSES,
    MOMENTS,
    SCORE,
    PEAK,
    MASS,
    MOMENT,
    count,
    splits,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the splits' sums to those of their rows, one after another."""
    program = tl.program_id(0).to(tl.int64)
    row = program * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    score = tl.load(SCORE + row, mask=live, other=0.0)
    mass = tl.load(MASS + row, mask=live, other=0.0)
    peak = tl.load(PEAK + row, mask=live, other=0.0)
    moment = tl.zeros((BLOCK,), tl.float32)
    if ENTROPY:
        moment = tl.load(MOMENT + row, mask=live, other=0.0)
    for split in range(0, splits):
        source = split * count.to(tl.int64) + row
        score += tl.load(SCORES + source, mask=live, other=0.0)
        split_peak = tl.load(PEAKS + source, mask=live, other=0.0)
        split_mass = tl.load(MASSES + source, mask=live, other=0.0)
        new_peak = tl.maximum(peak, split_peak)
        shift = peak - new_peak
        split_shift = split_peak - new_peak
        shrinkage = tl.exp2(shift * LOG2E)
        split_shrinkage = tl.exp2(split_shift * LOG2E)
        if ENTROPY:
            split_moment = tl.load(MOMENTS + source, mask=live, other=0.0)
            before = shrinkage * (moment + mass * shift)
            moment = before + split_shrinkage * (split_moment + split_mass * split_shift)
        mass = mass * shrinkage + split_mass * split_shrinkage
        peak = new_peak
    tl.store(SCORE + row, score, mask=live)
    tl.store(PEAK + row, peak, mask=live)
    tl.store(MASS + row, mass, mask=live)
    if ENTROPY:
        tl.store(MOMENT + row, moment, mask=live)


def fused(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    curve: Curve,
    running: Running,
    shape: Shape | None = None,
) -> None:
    """Add the whole vocabulary to the sums of the rows, in place, by `flash` and `combine`.

    Example:
        Of 8192 rows and 128,256 tokens it takes 16 bytes · 32 splits a row beside its results: 4
        MiB.
    """
    if not len(hidden):
        return
    native = hidden.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if not native or hidden.dtype != weight.dtype:
        hidden = hidden.float()
        weight = weight.float()
    hidden = _dense(hidden)
    weight = _dense(weight)
    if shape is None:
        capability = torch.cuda.get_device_capability(hidden.device)[0] if hidden.is_cuda else 0
        plain = not any(flags(curve).values())
        shape = shape_for(hidden.dtype, hidden.shape[1], capability, plain)
    column_blocks = triton.cdiv(len(weight), shape.BN)
    splits = triton.cdiv(column_blocks, SPLIT // shape.BN)
    parts = torch.empty(4, splits, len(hidden), dtype=torch.float32, device=hidden.device)
    entropy = running.moment is not None
    with on(hidden.device):
        _run_flash(hidden, weight, targets, curve, shape, entropy, parts)
        _run_combine(parts, running)


def _run_flash(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    curve: Curve,
    shape: Shape,
    entropy: bool,
    parts: Tensor,
) -> None:
    """Write the sums of each split of the vocabulary into parts [4, splits, rows]."""
    x = hidden
    w = weight
    if shape.tma:
        x = TensorDescriptor.from_tensor(hidden, [shape.BM, shape.BK])
        w = TensorDescriptor.from_tensor(weight, [shape.BN, shape.BK])
    count = len(hidden)
    vocabulary, depth = weight.shape
    splits = parts.shape[1]
    flash[(triton.cdiv(count, shape.BM) * splits,)](
        x,
        w,
        hidden.stride(0),
        weight.stride(0),
        pointer(curve.bias, hidden),
        targets.contiguous(),
        *parts,
        count,
        vocabulary,
        depth,
        *numbers(curve),
        **flags(curve),
        ENTROPY=entropy,
        TMA=shape.tma,
        UPCAST=INTERPRETED,
        BM=shape.BM,
        BN=shape.BN,
        BK=shape.BK,
        TILES=SPLIT // shape.BN,
        SIDE=GROUP,
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
        enable_fp_fusion=True,
    )


def _run_combine(parts: Tensor, running: Running) -> None:
    """Add the sums of each split to those of the rows."""
    _, splits, count = parts.shape
    combine[(triton.cdiv(count, COMBINED),)](
        *parts,
        running.score,
        running.peak,
        running.mass,
        pointer(running.moment, parts),
        count,
        splits,
        ENTROPY=running.moment is not None,
        BLOCK=COMBINED,
        enable_fp_fusion=True,
    )


def shape_for(dtype: torch.dtype, depth: int, capability: int, plain: bool) -> Shape:
    """Return the shape of `flash` for operands of this type and depth: never by the number of rows.

    Tiles are the largest that leave no register spilled (tests/kernels/test_offline.py).

    Args:
        dtype: type of the operands.
        depth: D.
        capability: the device's compute capability, its major number.
        plain: whether the logits are the products, without bias, soft cap or temperature.

    Example:
        >>> shape_for(torch.bfloat16, 512, 9, plain=True)[:3]
        (128, 256, 64)
        >>> shape_for(torch.bfloat16, 512, 9, plain=False)[:3]
        (128, 128, 64)
    """
    if dtype == torch.float32:
        return Shape(64, 128, 16, 8, 3, tma=False)
    # the copy engine takes rows of a multiple of 16 bytes
    if capability < 9 or depth * dtype.itemsize % 16:
        return Shape(128, 128, 32, 8, 4, tma=False)
    if capability == 9 and plain:
        return Shape(128, 256, 64, 8, 3, tma=True)
    return Shape(128, 128, 64, 8, 4, tma=True)


def _dense(operand: Tensor) -> Tensor:
    """Return rows without gaps between their numbers, which the copy engine can take.

    It takes addresses, and distances of rows, that are multiples of 16 bytes. Rows of an odd width
    are not for that engine.
    """
    width = operand.shape[1] * operand.element_size()
    distance = operand.stride(0) * operand.element_size()
    fits = distance >= width and (distance % 16 == 0 or width % 16 != 0)
    if operand.stride(1) == 1 and fits and operand.data_ptr() % 16 == 0:
        return operand
    return operand.clone(memory_format=torch.contiguous_format)
