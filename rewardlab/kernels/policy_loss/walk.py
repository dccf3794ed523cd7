"""The walk of linear_loss over chunks of rows, each with the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rewardlab.errors import InputError
from rewardlab.kernels.linear_log_prob import chunked
from rewardlab.kernels.linear_log_prob.eager import Curve, Upstream

StepLoss = Callable[[Tensor, Tensor | None, Tensor], Tensor]
SLICE = 2**22  # numbers of a weight that are converted at a time


def chunks(
    count: int, mask: Tensor | None, groups: Tensor | None, size: int, device: torch.device
) -> list[Tensor]:
    """The numbers of the rows of each chunk: `size` rows at most, or one group if that has more.

    Example:
        >>> mask, groups = torch.tensor([True, True, False, True, True]), torch.tensor([7, 5, 5, 7, 6])
        >>> [rows.tolist() for rows in chunks(5, mask, groups, 2, mask.device)]
        [[1, 4], [0, 3]]
    """
    live = torch.arange(count, device=device) if mask is None else mask.nonzero()[:, 0]
    if not len(live):
        return []
    if groups is None:
        return [live[start : start + size] for start in range(0, len(live), size)]
    numbers, order = groups[live].sort(stable=True)
    live, starts = live[order], [*(numbers.diff().nonzero()[:, 0] + 1).tolist(), len(live)]
    cuts = [0]
    for start, stop in pairwise([0, *starts]):
        if stop - cuts[-1] > size and start > cuts[-1]:
            cuts.append(start)
    return [live[start:stop] for start, stop in pairwise([*cuts, len(live)])]


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
        wanted: list[bool],
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        curve = curve._replace(bias=bias)
        kind = chunked.statistics_type(hidden, weight)
        step = chunked.steps(backend)
        total = torch.zeros((), dtype=kind, device=hidden.device)
        log_prob, log_sum_exp = (
            torch.zeros(len(hidden), dtype=kind, device=hidden.device) for _ in range(2)
        )
        spread = torch.zeros_like(log_prob) if entropy else None
        gradients = _Gradients(hidden, weight, bias, wanted)
        workspace = torch.empty(
            max(map(len, parts), default=0), len(weight), dtype=kind, device=hidden.device
        )
        for rows in parts:
            part = hidden[rows]
            place = targets[rows]
            products = workspace[: len(rows)]
            chunked.products(part, weight, products)
            logits = step.finished(products, curve)
            running = chunked.start(part, weight, place, entropy)
            step.add(logits, curve, place, 0, running)
            its_log_prob, log_sum_exp[rows], its_entropy, known = chunked.finish(running)
            log_prob[rows] = its_log_prob
            if spread is not None and its_entropy is not None:
                spread[rows] = its_entropy
            value, upstream = _asked(loss, its_log_prob, its_entropy, rows, any(wanted))
            total += value
            if upstream is None:
                continue
            live = upstream.log_prob != 0
            live = (live if upstream.entropy is None else live | (upstream.entropy != 0)).nonzero()[
                :, 0
            ]  # waits for it:
            some = (
                None if len(live) == len(rows) else live
            )  # two products of a chunk are worth more
            if len(live):
                slope = step.gradient(
                    logits, curve, place, 0, known, upstream, some, gradients.kind
                )
                gradients.add(
                    slope,
                    part if some is None else part[some],
                    rows if some is None else rows[some],
                )
                del slope  # or it is there beside the next
        ctx.gradients = gradients.found()
        ctx.kinds = [torch.float32 if x is None else x.dtype for x in (hidden, weight, bias)]
        results = log_prob, log_sum_exp, spread
        ctx.mark_non_differentiable(*(each for each in results if each is not None))
        return total, *results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise InputError(
                "linear_loss keeps its gradients for one backward pass; call it anew for a second."
            )
        # in place, and let go of: they are as large as the head
        gradients = ctx.gradients
        ctx.gradients = None
        scaled = (
            None if each is None else each.mul_(upstream).to(kind)
            for each, kind in zip(gradients, ctx.kinds, strict=True)
        )
        return *scaled, *[None] * 7


class _Gradients:
    """Gradients of hidden, weight and bias, in float32 as they grow; of hidden in its own type,
    since a row is written once.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: list[bool]
    ) -> None:
        self.weight = weight
        self.bias = bias
        kind = chunked.statistics_type(hidden, weight)
        self.product_kind = chunked.operand_type(hidden, weight, half=False)
        self.kind = (
            kind if wanted[2] else self.product_kind
        )  # a bias's is summed before it is rounded
        self.of_hidden = (
            torch.zeros(hidden.shape, dtype=_storage(hidden), device=hidden.device)
            if wanted[0]
            else None
        )
        self.of_weight = (
            torch.zeros(weight.shape, dtype=kind, device=hidden.device) if wanted[1] else None
        )
        self.of_bias = (
            torch.zeros(len(weight), dtype=kind, device=hidden.device) if wanted[2] else None
        )

    def add(self, slope: Tensor, hidden: Tensor, rows: Tensor) -> None:
        """Add what rows [n] with hidden [n, D] and the gradient by their logits [n, V] make of it."""
        if self.of_bias is not None:
            self.of_bias += slope.sum(0)
        slope = slope.to(self.product_kind)
        if self.of_weight is not None:
            chunked.add_product(self.of_weight, slope.T, hidden.to(self.product_kind))
        if self.of_hidden is not None:
            self.of_hidden[rows] = self._of_rows(slope).to(self.of_hidden.dtype)

    def found(self) -> list[Tensor | None]:
        """The gradients, each in its operand's type; float16's in float32, as their scale comes
        only in the backward pass.
        """
        of_weight = None if self.of_weight is None else self.of_weight.to(_storage(self.weight))
        of_bias = (
            None
            if self.of_bias is None or self.bias is None
            else self.of_bias.to(_storage(self.bias))
        )
        return [self.of_hidden, of_weight, of_bias]

    def _of_rows(self, slope: Tensor) -> Tensor:
        if self.weight.dtype == self.product_kind:
            return chunked.product(slope, self.weight)
        total = torch.zeros(
            len(slope), self.weight.shape[1], dtype=slope.dtype, device=slope.device
        )
        size = max(1, SLICE // max(1, self.weight.shape[1]))
        for start in range(0, len(self.weight), size):
            part = self.weight[start : start + size].to(slope.dtype)
            chunked.add_product(total, slope[:, start : start + size], part)
        return total


def _storage(operand: Tensor) -> torch.dtype:
    """What a gradient is kept in until the backward pass: float16 would lose what a loss scale has
    yet to lift.
    """
    return torch.float32 if operand.dtype == torch.float16 else operand.dtype


def _asked(
    loss: StepLoss, log_prob: Tensor, entropy: Tensor | None, rows: Tensor, wanted: bool
) -> tuple[Tensor, Upstream | None]:
    """The loss of a chunk, and its derivatives by log-probability and entropy if they are wanted."""
    leaves = [
        log_prob.detach().requires_grad_(),
        *([] if entropy is None else [entropy.detach().requires_grad_()]),
    ]
    with torch.set_grad_enabled(wanted):
        value = loss(leaves[0], leaves[1] if len(leaves) > 1 else None, rows)
    if not isinstance(value, Tensor) or value.dim():
        what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"The loss of linear_loss returns a scalar, what a chunk's rows add; got {what}. Is a sum missing?"
        )
    if not wanted or value.grad_fn is None:
        return value.detach(), None
    _check_leaves(value, leaves)
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    a = torch.zeros_like(log_prob) if found[0] is None else found[0]
    return value.detach(), Upstream(a, None, found[1] if len(leaves) > 1 else None)


def _check_leaves(value: Tensor, leaves: list[Tensor]) -> None:
    """Make sure that the loss hangs on nothing else that needs a gradient, since that would get
    none, in silence.

    Raises:
        InputError: if it does.
    """
    known = set()
    left = [value.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in known:
            continue
        known.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and not any(variable is leaf for leaf in leaves):
            shape = list(variable.shape)
            raise InputError(
                f"The loss of linear_loss hangs on another tensor that needs a gradient, {shape}, which would get none. "
                "Add that term outside, or detach it."
            )
        left.extend(before for before, _ in node.next_functions)
