"""The walk of linear_loss over chunks of rows, each with the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rewardlab.errors import InputError
from rewardlab.kernels.linear_log_prob import chunked
from rewardlab.kernels.linear_log_prob.chunked import Results, Wanted
from rewardlab.kernels.linear_log_prob.eager import Curve, Upstream
from rewardlab.kernels.linear_log_prob.matmul import (
    add_product,
    converted,
    product,
    product_type,
    statistics_type,
    write_products,
)

StepLoss = Callable[[Tensor, Tensor | None, Tensor], Tensor]


class _Head(NamedTuple):
    """What all chunks share: the head, its steps on a tile, and room for a chunk's logits."""

    weight: Tensor
    curve: Curve
    entropy: bool
    step: ModuleType
    workspace: Tensor


class _Chunk(NamedTuple):
    """A chunk's row numbers [n], its operands, its logits [n, V] and the results of its rows."""

    rows: Tensor
    hidden: Tensor
    targets: Tensor
    logits: Tensor
    results: Results


def live_rows(targets: Tensor, mask: Tensor | None) -> Tensor:
    """Return the numbers of the rows where the mask is true, all by default.

    Example:
        >>> live_rows(torch.zeros(3), torch.tensor([True, False, True]))
        tensor([0, 2])
    """
    if mask is None:
        return torch.arange(len(targets), device=targets.device)
    return mask.nonzero()[:, 0]


def chunks(live: Tensor, groups: Tensor | None, size: int) -> list[Tensor]:
    """Return the live rows of each chunk: `size` at most, or one group if that has more.

    Example:
        >>> groups = torch.tensor([7, 5, 5, 7, 6])
        >>> [rows.tolist() for rows in chunks(torch.tensor([0, 1, 3, 4]), groups, 2)]
        [[1, 4], [0, 3]]
    """
    if not len(live):
        return []
    if groups is None:
        return list(torch.split(live, size))
    numbers, order = groups[live].sort(stable=True)
    live = live[order]
    cuts = _cuts(numbers, size)
    return [live[start:stop] for start, stop in pairwise(cuts)]


def _cuts(numbers: Tensor, size: int) -> list[int]:
    """Return where to cut sorted group numbers, so that no group is cut.

    A part has `size` rows at most, or one group if that has more.
    """
    changes = numbers.diff().nonzero()[:, 0] + 1
    bounds = [0, *changes.tolist(), len(numbers)]
    cuts = [0]
    for start, stop in pairwise(bounds):
        if stop - cuts[-1] > size and start > cuts[-1]:
            cuts.append(start)
    return [*cuts, len(numbers)]


class LinearLoss(torch.autograd.Function):
    """See `linear_loss`: the forward pass takes the gradients too."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        loss: StepLoss,
        parts: list[Tensor],
        curve: Curve,
        entropy: bool,
        wanted: Wanted,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the loss and each row's log-probability, log-sum-exp and entropy or None."""
        workspace = _workspace(hidden, weight, parts)
        step = chunked.steps(backend)
        head = _Head(weight, curve._replace(bias=bias), entropy, step, workspace)
        gradients = _Gradients(hidden, weight, bias, wanted)
        total = workspace.new_zeros(())
        log_prob = total.new_zeros(len(hidden))
        log_sum_exp = total.new_zeros(len(hidden))
        entropies = total.new_zeros(len(hidden)) if entropy else None
        for rows in parts:
            chunk = _score(head, rows, hidden, targets)
            log_prob[rows] = chunk.results.log_prob
            log_sum_exp[rows] = chunk.results.log_sum_exp
            if entropies is not None and chunk.results.entropy is not None:
                entropies[rows] = chunk.results.entropy
            value, upstream = _evaluate(loss, chunk, any(wanted))
            total += value
            if upstream is not None:
                _add_gradients(gradients, head, chunk, upstream)
        ctx.gradients = gradients.results()
        ctx.dtypes = [hidden.dtype, weight.dtype, torch.float32 if bias is None else bias.dtype]
        columns = [log_prob, log_sum_exp]
        if entropies is not None:
            columns.append(entropies)
        ctx.mark_non_differentiable(*columns)
        return total, log_prob, log_sum_exp, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the forward pass times the upstream gradient."""
        if ctx.gradients is None:
            raise InputError(
                "linear_loss keeps its gradients for one backward pass; call it anew for a second."
            )
        # in place, and let go of: they are as large as the head
        gradients = ctx.gradients
        ctx.gradients = None
        scaled: list[Tensor | None] = []
        for gradient, dtype in zip(gradients, ctx.dtypes, strict=True):
            scaled.append(None if gradient is None else gradient.mul_(upstream).to(dtype))
        return *scaled, *[None] * 7


def _workspace(hidden: Tensor, weight: Tensor, parts: list[Tensor]) -> Tensor:
    """Return room for the logits of the longest chunk."""
    longest = max(map(len, parts), default=0)
    dtype = statistics_type(hidden, weight)
    return torch.empty(longest, len(weight), dtype=dtype, device=hidden.device)


def _score(head: _Head, rows: Tensor, hidden: Tensor, targets: Tensor) -> _Chunk:
    """Return a chunk with its logits, in the workspace, and the results of its rows."""
    hidden = hidden[rows]
    targets = targets[rows]
    products = head.workspace[: len(rows)]
    write_products(hidden, head.weight, products)
    logits = head.step.finished(products, head.curve)
    running = chunked.start(hidden, head.weight, targets, head.entropy)
    head.step.add(logits, head.curve, targets, 0, running)
    return _Chunk(rows, hidden, targets, logits, chunked.finish(running))


def _add_gradients(gradients: _Gradients, head: _Head, chunk: _Chunk, upstream: Upstream) -> None:
    """Add a chunk's rows to the gradients, those that have a derivative."""
    moving = upstream.log_prob != 0
    if upstream.entropy is not None:
        moving = moving | (upstream.entropy != 0)
    live = moving.nonzero()[:, 0]  # a GPU is waited for: two products of a chunk are worth more
    if not len(live):
        return
    hidden = chunk.hidden
    rows = chunk.rows
    selected = None
    if len(live) < len(rows):
        selected = live
        hidden = hidden[live]
        rows = rows[live]
    slope = head.step.gradient(
        chunk.logits,
        head.curve,
        chunk.targets,
        0,
        chunk.results.statistics,
        upstream,
        selected,
        gradients.slope_type,
    )
    gradients.add(slope, hidden, rows)


class _Gradients:
    """Gradients of hidden, weight and bias, in float32 as they grow.

    That of hidden is in its own type, since a row is written once.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Wanted) -> None:
        self.weight = weight
        self.bias = bias
        self.product_type = product_type(hidden, weight, half=False)
        dtype = statistics_type(hidden, weight)
        # a bias's gradient is summed before it is rounded
        self.slope_type = dtype if wanted.bias else self.product_type
        self.of_hidden: Tensor | None = None
        self.of_weight: Tensor | None = None
        self.of_bias: Tensor | None = None
        if wanted.hidden:
            self.of_hidden = hidden.new_zeros(hidden.shape, dtype=_storage_type(hidden))
        if wanted.weight:
            self.of_weight = hidden.new_zeros(weight.shape, dtype=dtype)
        if wanted.bias:
            self.of_bias = hidden.new_zeros(len(weight), dtype=dtype)

    def add(self, slope: Tensor, hidden: Tensor, rows: Tensor) -> None:
        """Add rows [n] with hidden [n, D] and the gradient by their logits, slope [n, V]."""
        if self.of_bias is not None:
            self.of_bias += slope.sum(0)
        slope = slope.to(self.product_type)
        if self.of_weight is not None:
            add_product(self.of_weight, slope.T, hidden.to(self.product_type))
        if self.of_hidden is not None:
            self.of_hidden[rows] = self._of_rows(slope).to(self.of_hidden.dtype)

    def results(self) -> list[Tensor | None]:
        """Return the gradients, each in its operand's type.

        float16's are in float32, as their scale comes only in the backward pass.
        """
        of_weight = self.of_weight
        if of_weight is not None:
            of_weight = of_weight.to(_storage_type(self.weight))
        of_bias = self.of_bias
        if of_bias is not None and self.bias is not None:
            of_bias = of_bias.to(_storage_type(self.bias))
        return [self.of_hidden, of_weight, of_bias]

    def _of_rows(self, slope: Tensor) -> Tensor:
        """Return slope · weight."""
        if self.weight.dtype == self.product_type:
            return product(slope, self.weight)
        total = slope.new_zeros(len(slope), self.weight.shape[1])
        for part in converted(self.weight, slope.dtype):
            add_product(total, slope[:, part.columns], part.weight)
        return total


def _storage_type(operand: Tensor) -> torch.dtype:
    """Return the type that a gradient is kept in until the backward pass.

    float16 would lose what a loss scale has yet to lift.
    """
    return torch.float32 if operand.dtype == torch.float16 else operand.dtype


def _evaluate(loss: StepLoss, chunk: _Chunk, wanted: bool) -> tuple[Tensor, Upstream | None]:
    """Return the loss of a chunk, and its derivatives if they are wanted.

    They are taken by the log-probability and the entropy.
    """
    log_prob = chunk.results.log_prob.detach().requires_grad_()
    entropy = chunk.results.entropy
    leaves = [log_prob]
    if entropy is not None:
        entropy = entropy.detach().requires_grad_()
        leaves.append(entropy)
    with torch.set_grad_enabled(wanted):
        value = loss(log_prob, entropy, chunk.rows)
    _check_scalar(value)
    if not wanted or value.grad_fn is None:
        return value.detach(), None
    _check_leaves(value, leaves)
    of_log_prob, *rest = torch.autograd.grad(value, leaves, allow_unused=True)
    if of_log_prob is None:
        of_log_prob = torch.zeros_like(log_prob)
    of_entropy = rest[0] if rest else None
    return value.detach(), Upstream(of_log_prob, None, of_entropy)


def _check_scalar(value: Any) -> None:
    if isinstance(value, Tensor) and not value.dim():
        return
    kind = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise InputError(
        "The loss of linear_loss returns a scalar, what a chunk's rows add; "
        f"got {kind}. Is a sum missing?"
    )


def _check_leaves(value: Tensor, leaves: list[Tensor]) -> None:
    """Check that the loss depends on nothing else that needs a gradient.

    That would get none, in silence.

    Raises:
        InputError: if it does.
    """
    visited = set()
    nodes = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and not any(variable is leaf for leaf in leaves):
            shape = list(variable.shape)
            raise InputError(
                "The loss of linear_loss hangs on another tensor that needs a gradient, "
                f"{shape}, which would get none. Add that term outside, or detach it."
            )
        nodes.extend(before for before, _ in node.next_functions)
