"""discounted_sum in plain torch, on any device: about √T blocks of √T steps, so that 3·√T
operations do instead of T.

All blocks walk back through their own steps together, first from nothing, then from what follows
them. Between these walks the blocks' sums are joined one by one, by the product of each block's
decays. No product is longer than a block, and it is taken in float64, so decays above 1 do not
overflow where the sums themselves do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST = 1e300
CACHED = (
    2**16
)  # numbers that are summed at once on the CPU, so that each walk finds them in its cache


def discounted_sum(values: Tensor, decay: Tensor | float) -> Tensor:
    """Return y_t = x_t + a_t · y_(t+1) of values x [B, T], T > 0, and a decay a, [B, T] or a
    number.

    Example:
        >>> discounted_sum(torch.ones(1, 5), 0.5)[0, 0].item()
        1.9375
    """
    rows, steps = values.shape
    part = rows if values.is_cuda else max(1, CACHED // steps)
    if rows > part:
        decays: Iterable[Tensor | float] = (
            torch.split(decay, part) if isinstance(decay, Tensor) else repeat(decay)
        )
        return torch.cat(
            [discounted_sum(*pair) for pair in zip(torch.split(values, part), decays, strict=False)]
        )
    size = isqrt(steps - 1) + 1
    count = -(-steps // size)
    x = _blocks(values, size, count)
    a = decay
    if isinstance(decay, Tensor):
        a = _blocks(
            pad(decay[:, :-1], (0, 1)), size, count
        )  # nothing follows the last step, so its decay is not read
        product = a.prod(0, dtype=torch.float64)
    else:
        product = torch.full((rows * count,), decay, dtype=torch.float64, device=values.device).pow(
            size
        )
    product = product.clamp(-LARGEST, LARGEST).view(rows, count).T
    whole = _walk(
        _walk(x, a, torch.zeros_like(x[0]))[0].double().view(rows, count).T,
        product,
        product.new_zeros(rows),
    )
    following = pad(whole[1:].T, (0, 1)).to(values.dtype)
    return _walk(x, a, following.flatten()).T.reshape(rows, -1)[:, :steps].contiguous()


def _blocks(columns: Tensor, size: int, count: int) -> Tensor:
    """[B, T] as [size, B · count], a column for each block; zeros stand behind the last step."""
    return pad(columns, (0, size * count - columns.shape[1])).reshape(-1, size).T.contiguous()


def _walk(x: Tensor, a: Tensor | float, following: Tensor) -> Tensor:
    """The sums [N, ...] of x [N, ...], from its last step back, if `following` [...] is the sum at
    the step behind it.
    """
    sums = torch.empty_like(x)
    factors: Iterable[Tensor | float] = reversed(a.unbind()) if isinstance(a, Tensor) else repeat(a)
    for value, factor, out in zip(
        reversed(x.unbind()), factors, reversed(sums.unbind()), strict=False
    ):
        if isinstance(factor, Tensor):
            torch.addcmul(value, factor, following, out=out)
        else:
            torch.add(value, following, alpha=factor, out=out)
        following = out
    return sums
