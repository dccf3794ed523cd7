"""A forward pass that keeps no tile, as Triton kernels: `flash` takes the products itself,
`combine` adds up its splits.

A row's results depend on nothing but the row, since its tiles and the order of its sums are fixed
by V, D and the types: that is the batch-invariant mode. Nothing is tuned at run time: the shapes
are a table. No kernel adds by atomics.
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
    """Of a program of `flash`: rows, columns and depth of its tiles, and how it is compiled."""

    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int
    tma: bool


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
    words,
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
    """Statistics [splits, rows] of a block of rows over TILES tiles of columns, products included:
    one program each.

    X and W are tensor descriptors (TMA) or pointers to rows without gaps between their numbers.
    SIDE blocks of rows are neighbours in the order of programs.
    """
    row_blocks = tl.cdiv(count, BM)
    splits = tl.cdiv(tl.cdiv(words, BN), TILES)
    program = tl.program_id(0)
    first_block = program // (SIDE * splits) * SIDE
    side = tl.minimum(row_blocks - first_block, SIDE)
    block = first_block + program % (SIDE * splits) % side
    split = program % (SIDE * splits) // side
    row = block * BM + tl.arange(0, BM)
    live = row < count
    target = tl.load(TARGETS + row, mask=live, other=-1).to(tl.int32)
    score = tl.zeros((BM,), tl.float32)
    mass = tl.zeros((BM,), tl.float32)
    moment = tl.zeros((BM,), tl.float32)
    peak = tl.full((BM,), LOWEST, tl.float32)
    offset = tl.arange(0, BN)
    deep = tl.arange(0, BK)
    for tile in range(split * TILES, tl.minimum(split * TILES + TILES, tl.cdiv(words, BN))):
        start = tile * BN
        column = start + offset
        inside = column < words
        place = target - start
        z = tl.zeros((BM, BN), tl.float32)
        for k in range(0, tl.cdiv(depth, BK)):
            if TMA:
                x = X.load([block * BM, k * BK])
                w = W.load([start, k * BK])
            else:
                here = (k * BK + deep)[None, :] < depth
                x = tl.load(
                    X + row.to(tl.int64)[:, None] * x_stride + (k * BK + deep)[None, :],
                    mask=live[:, None] & here,
                    other=0.0,
                )
                w = tl.load(
                    W + column.to(tl.int64)[:, None] * w_stride + (k * BK + deep)[None, :],
                    mask=inside[:, None] & here,
                    other=0.0,
                )
            if UPCAST:  # the interpreter multiplies bfloat16's bit patterns
                x = x.to(tl.float32)
                w = w.to(tl.float32)
            z = tl.dot(x, tl.trans(w), z, input_precision="ieee")
        bias = 0.0
        if BIAS:
            bias = tl.load(BIAS_OF + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        z = finish_logits(z, bias, cold, softcap, BIAS, CAP, HOT)
        if start + BN > words:
            z = tl.where(inside[None, :], z, -float("inf"))
        score += tl.sum(tl.where(offset[None, :] == place[:, None], z, 0.0), 1)
        top = tl.maximum(peak, tl.max(z, 1))
        shift = peak - top
        z = z - top[:, None]
        fall = tl.exp2(shift * LOG2E)
        share = tl.exp2(z * LOG2E)
        if ENTROPY:
            moment = fall * (moment + mass * shift) + tl.sum(
                share * tl.where(z < LOWEST, 0.0, z), 1
            )
        mass = mass * fall + tl.sum(share, 1)
        peak = top
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
    """Add the splits' statistics to those of their rows, one after another."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    score = tl.load(SCORE + row, mask=live, other=0.0)
    mass = tl.load(MASS + row, mask=live, other=0.0)
    peak = tl.load(PEAK + row, mask=live, other=0.0)
    moment = tl.zeros((BLOCK,), tl.float32)
    if ENTROPY:
        moment = tl.load(MOMENT + row, mask=live, other=0.0)
    for split in range(0, splits):
        place = split * count.to(tl.int64) + row
        score += tl.load(SCORES + place, mask=live, other=0.0)
        other = tl.load(PEAKS + place, mask=live, other=0.0)
        weight = tl.load(MASSES + place, mask=live, other=0.0)
        top = tl.maximum(peak, other)
        own = peak - top
        its = other - top
        fall = tl.exp2(own * LOG2E)
        rise = tl.exp2(its * LOG2E)
        if ENTROPY:
            more = tl.load(MOMENTS + place, mask=live, other=0.0)
            moment = fall * (moment + mass * own) + rise * (more + weight * its)
        mass = mass * fall + weight * rise
        peak = top
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
    """Add the whole vocabulary to what is known of the rows, in place, by `flash` and `combine`.

    Example:
        Of 8192 rows and 128,256 words it takes 16 bytes · 32 splits a row beside its results: 4
        MiB.
    """
    if not len(hidden):
        return
    same = hidden.dtype == weight.dtype and hidden.dtype in (
        torch.float32,
        torch.bfloat16,
        torch.float16,
    )
    hidden, weight = (_dense(x if same else x.float()) for x in (hidden, weight))
    capability = torch.cuda.get_device_capability(hidden.device)[0] if hidden.is_cuda else 0
    shape = shape or shape_for(
        hidden.dtype, hidden.shape[1], capability, not any(flags(curve).values())
    )
    tiles = SPLIT // shape.BN
    splits = triton.cdiv(triton.cdiv(len(weight), shape.BN), tiles)
    parts = torch.empty(4, splits, len(hidden), dtype=torch.float32, device=hidden.device)
    x = hidden
    w = weight
    if shape.tma:
        x, w = (
            TensorDescriptor.from_tensor(each, [rows, shape.BK])
            for each, rows in ((x, shape.BM), (w, shape.BN))
        )
    entropy = running.moment is not None
    moment = pointer(running.moment, hidden)
    with on(hidden.device):
        flash[(triton.cdiv(len(hidden), shape.BM) * splits,)](
            x, w, hidden.stride(0), weight.stride(0), pointer(curve.bias, hidden), targets.contiguous(), *parts,
            *hidden.shape[:1], *weight.shape, *numbers(curve), **flags(curve), ENTROPY=entropy, TMA=shape.tma,
            UPCAST=INTERPRETED and same, BM=shape.BM, BN=shape.BN, BK=shape.BK, TILES=tiles, SIDE=GROUP,
            num_warps=shape.num_warps, num_stages=shape.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
        combine[(triton.cdiv(len(hidden), COMBINED),)](
            *parts,
            running.score,
            running.peak,
            running.mass,
            moment,
            len(hidden),
            splits,
            ENTROPY=entropy,
            BLOCK=COMBINED,
            enable_fp_fusion=True,
        )


def shape_for(kind: torch.dtype, depth: int, capability: int, plain: bool) -> Shape:
    """The shape of `flash` for operands of this type and depth: never by the number of rows.

    Tiles are the largest that leave no register spilled (tests/kernels/test_offline.py).

    Args:
        kind: type of the operands.
        depth: D.
        capability: the device's, its major number.
        plain: whether the logits are the products, without bias, soft cap or temperature.

    Example:
        >>> shape_for(torch.bfloat16, 512, 9, plain=True)[:3], shape_for(torch.bfloat16, 512, 9, plain=False)[:3]
        ((128, 256, 64), (128, 128, 64))
    """
    if kind == torch.float32:
        return Shape(64, 128, 16, 8, 3, tma=False)
    if (
        capability < 9 or depth * kind.itemsize % 16
    ):  # the copy engine takes rows of a multiple of 16 bytes
        return Shape(128, 128, 32, 8, 4, tma=False)
    return (
        Shape(128, 256, 64, 8, 3, tma=True)
        if capability == 9 and plain
        else Shape(128, 128, 64, 8, 4, tma=True)
    )


def _dense(x: Tensor) -> Tensor:
    """Rows without gaps between their numbers, from an address and in a distance that the copy
    engine can take.
    """
    width, distance = (numbers * x.element_size() for numbers in (x.shape[1], x.stride(0)))
    fits = distance >= width and (
        distance % 16 == 0 or width % 16 != 0
    )  # rows of an odd width are not for that engine
    return (
        x
        if x.stride(1) == 1 and fits and x.data_ptr() % 16 == 0
        else x.clone(memory_format=torch.contiguous_format)
    )
