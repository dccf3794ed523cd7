"""discounted_sum in plain torch, on any device: 3·√T operations do instead of T.

The steps are cut into about √T blocks of √T steps. All blocks walk back through their own steps
together, first from nothing, then from what follows them. Between these walks the blocks' sums are
joined one by one, by the product of each block's decays. No product is longer than a block, and it
is taken in float64, so decays above 1 do not overflow where the sums themselves do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST = 1e300
# numbers that are summed at once on the CPU, so that each walk finds them in its cache
CACHED = 2**16


class _Layout(NamedTuple):
    """How the steps of B rows are cut: blocks of `size` steps, with zeros behind the last step."""

    rows: int
    steps: int
    size: int
    blocks: int


class _Decays(NamedTuple):
    """The decays of the blocks' steps, [size, B · blocks] or a number, and each block's product."""

    steps: Tensor | float
    products: Tensor


def discounted_sum(values: Tensor, decay: Tensor | float) -> Tensor:
    """Return y_t = x_t + a_t · y_(t+1) of values x [B, T], T > 0, decay a [B, T] or a number.

    Example:
        >>> discounted_sum(torch.ones(1, 5), 0.5)[0, 0].item()
        1.9375
    """
    rows, steps = values.shape
    part_rows = max(1, CACHED // steps)
    if values.is_cuda or rows <= part_rows:
        return _sum_by_blocks(values, decay)
    sums = []
    part_decay = decay
    for start in range(0, rows, part_rows):
        part = slice(start, start + part_rows)
        if isinstance(decay, Tensor):
            part_decay = decay[part]
        part_sums = _sum_by_blocks(values[part], part_decay)
        sums.append(part_sums)
    return torch.cat(sums)


def _sum_by_blocks(values: Tensor, decay: Tensor | float) -> Tensor:
    layout = _layout(values)
    blocks = _blocks(values, layout)
    decays = _block_decays(values, decay, layout)
    nothing = torch.zeros_like(blocks[0])
    from_nothing = _walk(blocks, decays.steps, nothing)
    following = _sums_behind_blocks(from_nothing[0], decays.products, layout)
    sums = _walk(blocks, decays.steps, following)
    padded = sums.T.reshape(layout.rows, -1)
    return padded[:, : layout.steps].contiguous()


def _layout(values: Tensor) -> _Layout:
    rows, steps = values.shape
    size = isqrt(steps - 1) + 1
    blocks = -(-steps // size)
    return _Layout(rows, steps, size, blocks)


def _sums_behind_blocks(block_sums: Tensor, products: Tensor, layout: _Layout) -> Tensor:
    """Return the sum at the step behind each block, of each block's own sum, both [B · blocks]."""
    shape = (layout.rows, layout.blocks)
    alone = block_sums.double().view(shape)
    factors = products.view(shape)
    nothing = products.new_zeros(layout.rows)
    sums = _walk(alone.T, factors.T, nothing)
    behind = pad(sums[1:].T, (0, 1))
    return behind.to(block_sums.dtype).flatten()


def _blocks(columns: Tensor, layout: _Layout) -> Tensor:
    """Return [B, T] as [size, B · blocks], a column for each block, zeros behind the last step."""
    missing = layout.size * layout.blocks - layout.steps
    padded = pad(columns, (0, missing))
    return padded.reshape(-1, layout.size).T.contiguous()


def _block_decays(values: Tensor, decay: Tensor | float, layout: _Layout) -> _Decays:
    steps = decay
    if isinstance(decay, Tensor):
        # nothing follows the last step, so its decay is not read
        read = pad(decay[:, :-1], (0, 1))
        steps = _blocks(read, layout)
        products = steps.prod(0, dtype=torch.float64)
    else:
        blocks = layout.rows * layout.blocks
        factors = values.new_full((blocks,), decay, dtype=torch.float64)
        products = factors.pow(layout.size)
    bounded = products.clamp(-LARGEST, LARGEST)
    return _Decays(steps, bounded)


def _walk(values: Tensor, decays: Tensor | float, following: Tensor) -> Tensor:
    """Return the sums [N, ...] of values [N, ...], from the last step back.

    `following` [...] is the sum at the step behind the last one.
    """
    sums = torch.empty_like(values)
    factors: Sequence[Tensor | float] = [decays] * len(values)
    if isinstance(decays, Tensor):
        factors = decays.unbind()
    steps = list(zip(values.unbind(), factors, sums.unbind(), strict=True))
    steps.reverse()
    for value, factor, total in steps:
        if isinstance(factor, Tensor):
            torch.addcmul(value, factor, following, out=total)
        else:
            torch.add(value, following, alpha=factor, out=total)
        following = total
    return sums
