"""The two steps on a tile of logits, in plain torch; `triton` has the same two for CUDA, under the
same names.

On a CPU they walk over few rows at a time, so that what they pass over several times stays in the
cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

LOW = -1e30  # below every logit, yet finite, so that 0 · LOW is 0
PIECE = 2**18  # numbers that are handled at a time on a CPU: 1 MiB


class Curve(NamedTuple):
    """What makes a logit of a product: cap(product + bias) / temperature."""

    bias: Tensor | None
    temperature: float
    softcap: float | None


class Running(NamedTuple):
    """What is known of rows from the tiles so far, [rows] each: the target's logit if it was among
    them, m = max z, s = Σ e^(z - m) and q = Σ e^(z - m)(z - m); None if the entropy is not wanted.
    """

    score: Tensor
    peak: Tensor
    mass: Tensor
    moment: Tensor | None


class Statistics(NamedTuple):
    """What the gradient needs of each row, [rows] each: m = max z, log Σ e^(z - m) and Σ p (z - m)."""

    peak: Tensor
    log_mass: Tensor
    mean: Tensor


class Upstream(NamedTuple):
    """Gradients of the loss by a row's log-probability, log-sum-exp and entropy, [rows] each; None
    where there is none.
    """

    log_prob: Tensor
    log_sum_exp: Tensor | None = None
    entropy: Tensor | None = None


def at(columns: tuple[Tensor | None, ...], rows: slice | Tensor) -> list[Tensor | None]:
    """The given rows of each column.

    Example:
        >>> at((torch.arange(3), None), slice(1, 3))
        [tensor([1, 2]), None]
    """
    return [None if column is None else column[rows] for column in columns]


def blocks(device: torch.device, gradient: bool) -> int:
    """How many times the tile's size these steps take at most, the tile itself among it."""
    return 1 if device.type == "cpu" else 3


def finished(products: Tensor, curve: Curve) -> Tensor:
    """Make logits of products [rows, columns], in place.

    Example:
        >>> finished(torch.ones(1, 2), Curve(torch.tensor([0.0, 1.0]), 2.0, None))
        tensor([[0.5000, 1.0000]])
    """
    if curve.bias is not None:
        products += curve.bias
    if curve.softcap is not None:
        products.div_(curve.softcap).tanh_().mul_(curve.softcap)
    return products if curve.temperature == 1 else products.div_(curve.temperature)


def add(logits: Tensor, curve: Curve, targets: Tensor, first: int, running: Running) -> None:
    """Add a tile to what is known of its rows, in place; the tile stays as it is.

    Args:
        logits: [rows, columns], `finished`.
        curve: how they were made.
        targets: int64 [rows], words.
        first: the word of the tile's first column.
        running: of these rows.
    """
    place = targets - first
    here = (place >= 0) & (place < logits.shape[1])
    index = place.clamp(0, logits.shape[1] - 1)[:, None]
    running.score.add_(logits.gather(1, index)[:, 0].where(here, 0))
    for rows in _pieces(logits.shape[1], len(logits), logits.device):
        part, (_, peak, mass, moment) = logits[rows], Running(*at(running, rows))  # type: ignore[arg-type]
        top = torch.maximum(peak, part.amax(1))
        part = part - top[:, None]
        shift = peak - top
        fall = shift.exp()
        if moment is None:
            mass.mul_(fall).add_(part.exp_().sum(1))
        else:
            share = part.exp()
            products = (part if curve.bias is None else part.clamp_(min=LOW)).mul_(share)
            moment.copy_(fall * (moment + mass * shift) + products.sum(1))
            mass.mul_(fall).add_(share.sum(1))
        peak.copy_(top)


def gradient(
    logits: Tensor,
    curve: Curve,
    targets: Tensor,
    first: int,
    known: Statistics,
    upstream: Upstream,
    rows: Tensor | None,
    kind: torch.dtype,
) -> Tensor:
    """The loss's gradient by the products, in the tile's own memory: a(1[target] - p) + b·p - h·p(z
    - Σ p z), and the curve's.

    Args:
        logits: [rows, columns], `finished`; ruined.
        curve: how they were made.
        targets: int64 [rows], words.
        first: the word of the tile's first column.
        known: of these rows.
        upstream: a, b and h of these rows.
        rows: int64, ascending: the only ones that are wanted; all by default.
        kind: type of the result.

    Returns:
        [rows, columns], or [len(rows), columns].
    """
    place = targets - first
    if rows is not None:
        # type: ignore[arg-type]
        place = place[rows]
        known = Statistics(*at(known, rows))
        upstream = Upstream(*at(upstream, rows))
    result = logits[: len(place)]
    here = (place >= 0) & (place < logits.shape[1])
    index = place.clamp(0, logits.shape[1] - 1)[:, None]
    a, b, h = upstream
    slope = -a if b is None else b - a
    for some in _pieces(logits.shape[1], len(place), logits.device):
        part = (
            logits[some] if rows is None else logits[rows[some]]
        )  # a copy; those before were read, so they may be written
        bend = (
            None
            if curve.softcap is None
            else 1 - (part * (curve.temperature / curve.softcap)).square_()
        )
        part.sub_(known.peak[some, None])
        if h is None:
            part.sub_(known.log_mass[some, None]).exp_().mul_(slope[some, None])
        else:
            share = (part - known.log_mass[some, None]).exp_()
            part = (
                part.clamp_(min=LOW)
                .sub_(known.mean[some, None])
                .mul_(-h[some, None])
                .add_(slope[some, None])
                .mul_(share)
            )
        part.scatter_add_(1, index[some], a[some].where(here[some], 0)[:, None])
        if curve.temperature != 1:
            part.div_(curve.temperature)
        if bend is not None:
            part.mul_(bend)
        if rows is not None:
            result[some] = part
    return result.to(kind)


def _pieces(columns: int, count: int, device: torch.device) -> Iterator[slice]:
    size = max(1, PIECE // max(1, columns)) if device.type == "cpu" else max(1, count)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
