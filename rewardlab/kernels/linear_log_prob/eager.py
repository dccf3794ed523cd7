"""The two steps on a tile of logits, in plain torch.

`triton` has the same two for CUDA, under the same names. On a CPU they walk over few rows at a
time, so that what they pass over several times stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

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
    """Sums over the tiles so far, one number a row.

    Attributes:
        score: the target's logit, if it was among them.
        peak: m = max z.
        mass: s = Σ e^(z - m).
        moment: q = Σ e^(z - m)(z - m); None if the entropy is not wanted.
    """

    score: Tensor
    peak: Tensor
    mass: Tensor
    moment: Tensor | None


class Statistics(NamedTuple):
    """What the gradient needs of each row: m = max z, log Σ e^(z - m) and Σ p (z - m)."""

    peak: Tensor
    log_mass: Tensor
    mean: Tensor


class Upstream(NamedTuple):
    """Gradients of the loss by a row's log-probability, log-sum-exp and entropy, or None."""

    log_prob: Tensor
    log_sum_exp: Tensor | None = None
    entropy: Tensor | None = None


class _Targets(NamedTuple):
    """The column of each row's target in a tile, clamped to it, and whether it is in the tile."""

    columns: Tensor
    inside: Tensor


Record = TypeVar("Record", Running, Statistics, Upstream, _Targets)


def select_rows(record: Record, rows: slice | Tensor) -> Record:
    """Return a record with the given rows of each column.

    Example:
        >>> select_rows(Upstream(torch.arange(3)), slice(1, 3))
        Upstream(log_prob=tensor([1, 2]), log_sum_exp=None, entropy=None)
    """
    columns = [None if column is None else column[rows] for column in record]
    return type(record)._make(columns)


def _as_columns(record: Record) -> Record:
    """Return a record whose columns are [rows, 1]."""
    columns = [None if column is None else column[:, None] for column in record]
    return type(record)._make(columns)


def blocks(device: torch.device, gradient: bool) -> int:
    """Return how many times the tile's size these steps take at most, the tile itself included."""
    return 1 if device.type == "cpu" else 3


def finished(products: Tensor, curve: Curve) -> Tensor:
    """Return the logits of products [rows, columns], made in place.

    Example:
        >>> finished(torch.ones(1, 2), Curve(torch.tensor([0.0, 1.0]), 2.0, None))
        tensor([[0.5000, 1.0000]])
    """
    if curve.bias is not None:
        products += curve.bias
    if curve.softcap is not None:
        products.div_(curve.softcap).tanh_().mul_(curve.softcap)
    if curve.temperature != 1:
        products.div_(curve.temperature)
    return products


def add(logits: Tensor, curve: Curve, targets: Tensor, first_token: int, running: Running) -> None:
    """Add a tile to the sums of its rows, in place; the tile stays as it is.

    Args:
        logits: [rows, columns], `finished`.
        curve: how they were made.
        targets: int64 [rows], tokens.
        first_token: the token of the tile's first column.
        running: sums of these rows.
    """
    width = logits.shape[1]
    in_tile = _as_columns(_targets_in_tile(targets, first_token, width))
    target_logits = logits.gather(1, in_tile.columns)
    scores = target_logits.where(in_tile.inside, 0)
    running.score.add_(scores[:, 0])
    for rows in _pieces(width, len(logits), logits.device):
        _add_piece(logits[rows], curve, select_rows(running, rows))


def _add_piece(logits: Tensor, curve: Curve, running: Running) -> None:
    """Add logits to the peaks, masses and moments of their rows, in place."""
    peak = torch.maximum(running.peak, logits.amax(1))
    shifted = logits - peak[:, None]
    shift = running.peak - peak
    shrinkage = shift.exp()
    if running.moment is None:
        running.mass.mul_(shrinkage).add_(shifted.exp_().sum(1))
    else:
        exponentials = shifted.exp()
        if curve.bias is not None:  # it may be -inf, and 0 · -inf is NaN
            shifted.clamp_(min=LOW)
        moments = shifted.mul_(exponentials).sum(1)
        moved = running.moment + running.mass * shift
        running.moment.copy_(shrinkage * moved + moments)
        running.mass.mul_(shrinkage).add_(exponentials.sum(1))
    running.peak.copy_(peak)


def gradient(
    logits: Tensor,
    curve: Curve,
    targets: Tensor,
    first_token: int,
    statistics: Statistics,
    upstream: Upstream,
    rows: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return the loss's gradient by the products, in the tile's own memory.

    It is a(1[target] - p) + b·p - h·p(z - Σ p z), times the curve's slope.

    Args:
        logits: [rows, columns], `finished`; overwritten.
        curve: how they were made.
        targets: int64 [rows], tokens.
        first_token: the token of the tile's first column.
        statistics: statistics of these rows.
        upstream: a, b and h of these rows.
        rows: int64, ascending: the only ones that are wanted; all by default.
        dtype: type of the result.

    Returns:
        [rows, columns], or [len(rows), columns].
    """
    width = logits.shape[1]
    in_tile = _as_columns(_targets_in_tile(targets, first_token, width))
    statistics = _as_columns(statistics)
    upstream = _as_columns(upstream)
    if rows is not None:
        in_tile = select_rows(in_tile, rows)
        statistics = select_rows(statistics, rows)
        upstream = select_rows(upstream, rows)
    count = len(in_tile.columns)
    result = logits[:count]
    for piece in _pieces(width, count, logits.device):
        # with rows it is a copy; rows that were read before may be written
        part = logits[piece] if rows is None else logits[rows[piece]]
        _differentiate(
            part,
            curve,
            select_rows(in_tile, piece),
            select_rows(statistics, piece),
            select_rows(upstream, piece),
        )
        if rows is not None:
            result[piece] = part
    return result.to(dtype)


def _differentiate(
    logits: Tensor, curve: Curve, targets: _Targets, statistics: Statistics, upstream: Upstream
) -> None:
    """Turn logits into the gradient by their products, in place; the records hold [rows, 1]."""
    cap_slope = None
    if curve.softcap is not None:
        capped = logits * (curve.temperature / curve.softcap)
        cap_slope = 1 - capped.square_()
    _differentiate_softmax(logits, statistics, upstream)
    of_targets = upstream.log_prob.where(targets.inside, 0)
    logits.scatter_add_(1, targets.columns, of_targets)
    if curve.temperature != 1:
        logits.div_(curve.temperature)
    if cap_slope is not None:
        logits.mul_(cap_slope)


def _differentiate_softmax(logits: Tensor, statistics: Statistics, upstream: Upstream) -> None:
    """Turn logits into (b - a)·p - h·p(z - Σ p z), in place."""
    slope = -upstream.log_prob
    if upstream.log_sum_exp is not None:
        slope = upstream.log_sum_exp - upstream.log_prob
    logits.sub_(statistics.peak)
    if upstream.entropy is None:
        logits.sub_(statistics.log_mass).exp_().mul_(slope)
        return
    shifted = logits - statistics.log_mass
    probabilities = shifted.exp_()
    logits.clamp_(min=LOW)
    logits.sub_(statistics.mean)
    logits.mul_(-upstream.entropy)
    logits.add_(slope)
    logits.mul_(probabilities)


def _targets_in_tile(targets: Tensor, first_token: int, width: int) -> _Targets:
    columns = targets - first_token
    inside = (columns >= 0) & (columns < width)
    return _Targets(columns.clamp(0, width - 1), inside)


def _pieces(columns: int, count: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of `count` rows: all at once but for a CPU."""
    size = max(1, count)
    if device.type == "cpu":
        size = max(1, PIECE // max(1, columns))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
