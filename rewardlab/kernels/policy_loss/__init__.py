"""A loss of a linear head's log-probabilities, with its gradient taken in the forward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.kernels.dispatch import Backend, chosen
from rewardlab.kernels.linear_log_prob import LinearLogProb, check, linear_log_prob
from rewardlab.kernels.linear_log_prob import hindrances as of_log_prob
from rewardlab.kernels.linear_log_prob.chunked import Wanted, steps
from rewardlab.kernels.linear_log_prob.eager import Curve
from rewardlab.kernels.linear_log_prob.matmul import autocast_operands, statistics_type
from rewardlab.kernels.linear_log_prob.op import check_targets
from rewardlab.kernels.policy_loss.walk import LinearLoss, StepLoss, chunks, live_rows

__all__ = ["StepLoss", "hindrances", "linear_loss"]

BUDGET = 32 * 2**20
CUDA_BUDGET = 768 * 2**20  # a GPU needs about a thousand rows at once, each of the whole vocabulary


NOTHING = Wanted(hidden=False, weight=False, bias=False)


class _Operands(NamedTuple):
    """What `linear_log_prob` takes, but for the mask and how it runs."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    bias: Tensor | None
    temperature: float
    softcap: float | None
    entropy: bool


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    loss: StepLoss,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    mask: Tensor | None = None,
    entropy: bool = False,
    rows: int | None = None,
    groups: Tensor | None = None,
    budget: int | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, LinearLogProb]:
    """Return `loss(linear_log_prob(...))`, summed over chunks of rows: three products, not four.

    A row's gradient by its logits needs no more than ∂ℓ/∂log p and ∂ℓ/∂H
    (docs/kernels/policy_loss.md), and both are known as soon as the loss of its chunk is. So while
    the chunk's logits are there, the loss is asked for its own derivatives, and the gradients of
    hidden, weight and bias are taken at once. `backward` only multiplies them by the upstream
    gradient. A frozen head makes it two products, and a row whose derivatives are all 0 (clipped,
    without an advantage) costs the first alone.

    Args:
        hidden, weight, targets, bias, temperature, softcap: as in `linear_log_prob`.
        loss: takes log_prob [n], entropy [n] (None if it is not wanted) and rows, int64 [n], the
            chunk's rows in the caller's numbering; returns a scalar, what these rows add to the
            loss. Weights therefore come from the whole batch. Derivatives are taken by its first
            two arguments alone.
        mask: bool [N]; the other rows never reach the head or the loss.
        entropy: whether the loss gets the entropy.
        rows: the most rows of a chunk; by default what the budget has room for.
        groups: int64 [N]; rows with one number share a chunk: for losses of whole sequences or
            pairs. Inside a chunk rows then stand by group, each group's in their order. The loss of
            a group with more rows than a chunk is taken of its `linear_log_prob` instead: four
            products, and no larger workspace.
        budget: bytes of workspace, beside inputs, results and gradients: 32 MiB on a CPU, 768 MiB
            elsewhere.
        backend: as in `linear_log_prob`; under torch.compile the loss is taken of its result, with
            four products, and a mask needs torch._dynamo.config.capture_dynamic_output_shape_ops.

    Returns:
        (loss, results of each row), the second without a gradient, 0 where the mask is false.

    Raises:
        InputError: if shapes disagree, a target is out of range, a setting or the backend cannot be
            used, the loss returns no scalar or hangs on another tensor that needs a gradient, or
            `backward` is called twice.

    Example:
        >>> hidden, weight = torch.eye(2).requires_grad_(), torch.zeros(4, 2)
        >>> def mean_nll(log_prob, entropy, rows):
        ...     return -log_prob.sum() / 2
        >>> value, results = linear_loss(hidden, weight, torch.tensor([0, 3]), mean_nll)
        >>> value.backward()
        >>> round(value.item(), 4), results.log_prob.exp().tolist(), hidden.grad.shape
        (1.3863, [0.25, 0.25], torch.Size([2, 2]))
    """
    check(hidden, weight, targets, bias, mask, temperature)
    _check_chunks(targets, groups, rows)
    operands = _Operands(hidden, weight, targets, bias, temperature, softcap, entropy)
    name = "reference"  # under torch.compile it is the operator of linear_log_prob that chooses
    if not torch.compiler.is_compiling():
        name = chosen("linear_loss", hindrances(hidden, weight), backend)
    if name == "reference":
        return _loss_of_log_prob(operands, loss, mask, backend)
    hidden, weight, bias = autocast_operands(hidden, weight, bias)
    operands = operands._replace(hidden=hidden, weight=weight, bias=bias)
    check_targets(targets if mask is None else targets[mask], len(weight))
    if rows is None:
        rows = _chunk_rows(hidden, weight, budget, name)
    parts = chunks(live_rows(targets, mask), groups, rows)
    small = [part for part in parts if len(part) <= rows]
    large = [part for part in parts if len(part) > rows]
    with torch.autocast(hidden.device.type, enabled=False):
        # nothing comes of no chunk
        wanted = NOTHING if large and not small else _wanted(operands)
        value, results = _loss_of_chunks(operands, loss, small, wanted, name)
        if large:
            large_value = _loss_of_groups(operands, loss, large, budget, backend, results)
            value = large_value + (value if small else 0)
    return value, results


def hindrances(hidden: Tensor, weight: Tensor, *_: object, **__: object) -> dict[str, str]:
    """Return why each backend of `linear_loss` cannot take these arguments, empty if it can.

    The backends are in order of preference.

    Example:
        >>> hindrances(torch.eye(2), torch.eye(2))["torch"]
        ''
    """
    return of_log_prob(hidden, weight)


def _check_chunks(targets: Tensor, groups: Tensor | None, rows: int | None) -> None:
    groups_fit = groups is None or groups.shape == targets.shape
    rows_fit = rows is None or rows >= 1
    if groups_fit and rows_fit:
        return
    shape = None if groups is None else list(groups.shape)
    raise InputError(
        f"linear_loss takes groups [{len(targets)}], a number a row, and rows of at least 1; "
        f"got {shape}, {rows}."
    )


def _loss_of_log_prob(
    operands: _Operands, loss: StepLoss, mask: Tensor | None, backend: Backend | None
) -> tuple[Tensor, LinearLogProb]:
    """Return the loss of `linear_log_prob`'s results, in one piece, and the results detached."""
    results = _log_prob(operands, mask, None, backend)
    live = live_rows(operands.targets, mask)
    entropy = None
    detached_entropy = None
    if results.entropy is not None:
        entropy = results.entropy[live]
        detached_entropy = results.entropy.detach()
    value = loss(results.log_prob[live], entropy, live)
    detached = LinearLogProb(
        results.log_prob.detach(), results.log_sum_exp.detach(), detached_entropy
    )
    return value, detached


def _log_prob(
    operands: _Operands, mask: Tensor | None, budget: int | None, backend: Backend | None
) -> LinearLogProb:
    return linear_log_prob(
        operands.hidden,
        operands.weight,
        operands.targets,
        bias=operands.bias,
        temperature=operands.temperature,
        softcap=operands.softcap,
        entropy=operands.entropy,
        mask=mask,
        budget=budget,
        backend=backend,
    )


def _chunk_rows(hidden: Tensor, weight: Tensor, budget: int | None, name: str) -> int:
    """Return how many rows the budget has room for."""
    if not budget:
        budget = BUDGET if hidden.device.type == "cpu" else CUDA_BUDGET
    item = statistics_type(hidden, weight).itemsize
    blocks: int = steps(name).blocks(hidden.device, True)
    row_bytes = len(weight) * item * blocks
    return max(1, budget // max(1, row_bytes))


def _wanted(operands: _Operands) -> Wanted:
    if not torch.is_grad_enabled():
        return NOTHING
    bias = operands.bias
    return Wanted(
        hidden=operands.hidden.requires_grad,
        weight=operands.weight.requires_grad,
        bias=bias is not None and bias.requires_grad,
    )


def _loss_of_chunks(
    operands: _Operands, loss: StepLoss, parts: list[Tensor], wanted: Wanted, name: str
) -> tuple[Tensor, LinearLogProb]:
    """Return the loss summed over chunks, with its gradient, and the results of their rows."""
    # the bias has to be an argument of its own
    curve = Curve(None, float(operands.temperature), operands.softcap)
    value, log_prob, log_sum_exp, entropy = LinearLoss.apply(
        operands.hidden,
        operands.weight,
        operands.bias,
        operands.targets,
        loss,
        parts,
        curve,
        operands.entropy,
        wanted,
        name,
    )
    return value, LinearLogProb(log_prob, log_sum_exp, entropy)


def _loss_of_groups(
    operands: _Operands,
    loss: StepLoss,
    groups: list[Tensor],
    budget: int | None,
    backend: Backend | None,
    results: LinearLogProb,
) -> Tensor:
    """Return the loss of groups that are too large for a chunk, and write their rows' results.

    All of them are taken together, so that the weight's gradient is rounded once.
    """
    rows = torch.cat(groups)
    operands = operands._replace(hidden=operands.hidden[rows], targets=operands.targets[rows])
    group_results = _log_prob(operands, None, budget, backend)
    value = loss(group_results.log_prob, group_results.entropy, rows)
    for column, values in zip(results, group_results, strict=True):
        if column is not None and values is not None:
            column[rows] = values.detach()
    return value
