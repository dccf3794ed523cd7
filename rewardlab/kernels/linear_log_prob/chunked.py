"""linear_log_prob tile by tile: rows times a slice of the vocabulary, under a budget of bytes.

The outer loop is over the vocabulary, so each slice of the weight is read, and if need be
converted, once a pass, and each slice of its gradient is written once. What is done to a tile is in
another module: `eager` in plain torch, `triton` in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.kernels.linear_log_prob import eager
from rewardlab.kernels.linear_log_prob.eager import (
    LOW,
    Curve,
    Running,
    Statistics,
    Upstream,
    select_rows,
)
from rewardlab.kernels.linear_log_prob.matmul import (
    add_product,
    autocast_operands,
    product,
    product_type,
    slices,
    statistics_type,
    write_products,
)

ROWS = 1024  # of a tile on a CPU: enough to keep a matrix product busy
CUDA_ROWS = 8192  # and on a GPU
ALIGNED = 128  # columns: slices are a multiple of it where there is room


class Results(NamedTuple):
    """What the forward pass gives for each row, [N] each; the entropy may be None."""

    log_prob: Tensor
    log_sum_exp: Tensor
    entropy: Tensor | None
    statistics: Statistics


class Wanted(NamedTuple):
    """Which gradients are wanted."""

    hidden: bool
    weight: bool
    bias: bool


class _TileSize(NamedTuple):
    rows: int
    columns: int


class _Part(NamedTuple):
    """A slice of the vocabulary: its columns, its weights in the product's type, its curve."""

    columns: slice
    weight: Tensor
    curve: Curve


class _RowTile(NamedTuple):
    """A slice of rows, with what the gradient needs of them."""

    rows: slice
    hidden: Tensor
    targets: Tensor
    statistics: Statistics
    upstream: Upstream


def steps(name: str) -> ModuleType:
    """Return the module of the two steps on a tile, of "torch" or "triton"."""
    return eager if name == "torch" else import_module("rewardlab.kernels.linear_log_prob.triton")


@torch.no_grad()
def linear_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return the logits [N, V] that `linear_log_prob` scores by, in float32, without a gradient.

    They are for sampling from few rows.

    Example:
        >>> linear_logits(torch.ones(1, 2), torch.eye(2), temperature=0.5)
        tensor([[2., 2.]])
    """
    hidden, weight, bias = autocast_operands(hidden, weight, bias)
    logits = hidden.new_empty(len(hidden), len(weight), dtype=statistics_type(hidden, weight))
    with torch.autocast(hidden.device.type, enabled=False):
        write_products(hidden, weight, logits)
        return eager.finished(logits, Curve(bias, temperature, softcap))


def forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    curve: Curve,
    entropy: bool,
    budget: int,
    backend: str,
) -> Results:
    """Return the results of all rows. `backend` is "torch", "triton" or "fused"."""
    targets = targets.contiguous()  # kernels read one beside the other
    running = start(hidden, weight, targets, entropy)
    if backend == "fused":
        module = import_module("rewardlab.kernels.linear_log_prob.triton_fused")
        module.fused(hidden, weight, targets, curve, running)
        return finish(running)
    step = steps(backend)
    dtype = product_type(hidden, weight)
    size = _tile_size(hidden, weight, dtype, budget, step.blocks(hidden.device, False))
    row_slices = list(slices(len(hidden), size.rows))
    with torch.autocast(hidden.device.type, enabled=False):
        for part in _vocabulary(weight, curve, dtype, size.columns):
            for rows in row_slices:
                logits = step.finished(product(hidden[rows], part.weight.T), part.curve)
                sums = select_rows(running, rows)
                step.add(logits, part.curve, targets[rows], part.columns.start, sums)
                del logits  # or it is there beside the next
    return finish(running)


def backward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    curve: Curve,
    statistics: Statistics,
    upstream: Upstream,
    wanted: Wanted,
    budget: int,
    backend: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the wanted gradients of hidden, weight and bias, each in its operand's type."""
    step = steps(backend)
    dtype = product_type(hidden, weight, half=False)
    blocks = step.blocks(hidden.device, True)
    size = _tile_size(hidden, weight, dtype, budget, blocks, gradient=wanted.weight)
    tiles = _row_tiles(hidden, targets.contiguous(), statistics, upstream, size.rows)
    gradients = _Gradients(hidden, weight, wanted)
    # a bias's gradient is summed before it is rounded
    slope_type = gradients.dtype if wanted.bias else dtype
    with torch.autocast(hidden.device.type, enabled=False):
        for part in _vocabulary(weight, curve, dtype, size.columns):
            gradients.begin(part)
            for tile in tiles:
                slope = _slope(step, part, tile, slope_type)
                gradients.add(part, tile, slope)
                del slope  # or it is there beside the next
            gradients.end(part)
    return gradients.results(hidden, curve.bias)


class _Gradients:
    """The wanted gradients, summed in the statistics' type; the weight's slice by slice."""

    def __init__(self, hidden: Tensor, weight: Tensor, wanted: Wanted) -> None:
        self.dtype = statistics_type(hidden, weight)
        self.of_hidden: Tensor | None = None
        self.of_weight: Tensor | None = None
        self.of_part: Tensor | None = None
        self.of_bias: Tensor | None = None
        if wanted.hidden:
            self.of_hidden = torch.zeros(hidden.shape, dtype=self.dtype, device=hidden.device)
        if wanted.weight:
            self.of_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        if wanted.bias:
            self.of_bias = torch.zeros(len(weight), dtype=self.dtype, device=hidden.device)

    def begin(self, part: _Part) -> None:
        """Begin a slice of the vocabulary: the sum of its weights' gradient is 0."""
        self.of_part = None
        if self.of_weight is None:
            return
        if self.of_weight.dtype == self.dtype:
            self.of_part = self.of_weight[part.columns].zero_()
        else:
            self.of_part = torch.zeros_like(part.weight, dtype=self.dtype)

    def add(self, part: _Part, tile: _RowTile, slope: Tensor) -> None:
        """Add what the gradient by a tile's products makes of them."""
        if self.of_bias is not None:
            self.of_bias[part.columns] += slope.sum(0)
        dtype = part.weight.dtype
        slope = slope.to(dtype)
        if self.of_hidden is not None:
            add_product(self.of_hidden[tile.rows], slope, part.weight)
        if self.of_part is not None:
            add_product(self.of_part, slope.T, tile.hidden.to(dtype))

    def end(self, part: _Part) -> None:
        """End a slice of the vocabulary: round its sum, if the weight is of another type."""
        if self.of_weight is None or self.of_part is None:
            return
        if self.of_weight.dtype != self.dtype:
            self.of_weight[part.columns] = self.of_part

    def results(
        self, hidden: Tensor, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of hidden, weight and bias, each in its operand's type."""
        of_hidden = self.of_hidden
        if of_hidden is not None:
            of_hidden = of_hidden.to(hidden.dtype)
        of_bias = None
        if self.of_bias is not None and bias is not None:
            of_bias = self.of_bias.to(bias.dtype)
        return of_hidden, self.of_weight, of_bias


def _slope(step: ModuleType, part: _Part, tile: _RowTile, dtype: torch.dtype) -> Tensor:
    """Return the loss's gradient by the products of a tile."""
    logits = step.finished(product(tile.hidden, part.weight.T), part.curve)
    slope: Tensor = step.gradient(
        logits,
        part.curve,
        tile.targets,
        part.columns.start,
        tile.statistics,
        tile.upstream,
        None,
        dtype,
    )
    return slope


def start(hidden: Tensor, weight: Tensor, targets: Tensor, entropy: bool) -> Running:
    """Return the sums of rows before the first tile.

    A target out of range makes the row's score NaN.
    """
    valid = (targets >= 0) & (targets < len(weight))
    score = torch.zeros(len(hidden), dtype=statistics_type(hidden, weight), device=hidden.device)
    score.masked_fill_(~valid, torch.nan)
    peak = torch.full_like(score, LOW)
    mass = torch.zeros_like(score)
    moment = torch.zeros_like(score) if entropy else None
    return Running(score, peak, mass, moment)


def finish(running: Running) -> Results:
    """Return the results of rows, of their sums after the last tile."""
    score, peak, mass, moment = running
    log_mass = mass.log()
    mean = torch.zeros_like(mass)
    entropy = None
    if moment is not None:
        mean = moment / mass
        entropy = log_mass - mean
    log_prob = score - peak - log_mass
    log_sum_exp = peak + log_mass
    return Results(log_prob, log_sum_exp, entropy, Statistics(peak, log_mass, mean))


def _tile_size(
    hidden: Tensor,
    weight: Tensor,
    dtype: torch.dtype,
    budget: int,
    blocks: int,
    gradient: bool = False,
) -> _TileSize:
    """Return how many rows and columns a tile has under a budget of bytes.

    The workspace is `blocks` tiles. Beside them are the slice's weights, if they are converted to
    `dtype`, and their gradient.
    """
    item = statistics_type(hidden, weight).itemsize
    most_rows = CUDA_ROWS if hidden.is_cuda else ROWS
    narrow_row = blocks * ALIGNED * item
    rows = max(1, min(len(hidden), most_rows, budget // narrow_row))
    weight_copies = (weight.dtype != dtype) + gradient
    column_bytes = item * (blocks * rows + weight_copies * hidden.shape[1])
    columns = max(1, budget // column_bytes)
    if columns > ALIGNED:
        columns -= columns % ALIGNED
    return _TileSize(rows, columns)


def _vocabulary(weight: Tensor, curve: Curve, dtype: torch.dtype, columns: int) -> Iterator[_Part]:
    """Yield the slices of the vocabulary, of so many columns each."""
    for part in slices(len(weight), columns):
        part_curve = curve
        if curve.bias is not None:
            part_curve = curve._replace(bias=curve.bias[part])
        yield _Part(part, weight[part].to(dtype), part_curve)


def _row_tiles(
    hidden: Tensor, targets: Tensor, statistics: Statistics, upstream: Upstream, size: int
) -> list[_RowTile]:
    """Return the slices of `size` rows, with what the gradient needs of them."""
    tiles = []
    for rows in slices(len(hidden), size):
        tile_statistics = select_rows(statistics, rows)
        tile_upstream = select_rows(upstream, rows)
        tiles.append(_RowTile(rows, hidden[rows], targets[rows], tile_statistics, tile_upstream))
    return tiles
