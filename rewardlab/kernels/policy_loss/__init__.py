"""A loss of a linear head's log-probabilities, with its gradient taken in the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.kernels.dispatch import Backend, chosen
from rewardlab.kernels.linear_log_prob import LinearLogProb, check, linear_log_prob
from rewardlab.kernels.linear_log_prob import hindrances as of_log_prob
from rewardlab.kernels.linear_log_prob.chunked import autocast_operands, statistics_type, steps
from rewardlab.kernels.linear_log_prob.eager import Curve
from rewardlab.kernels.linear_log_prob.op import check_targets
from rewardlab.kernels.policy_loss.walk import LinearLoss, StepLoss, chunks

__all__ = ["StepLoss", "hindrances", "linear_loss"]

BUDGET = 32 * 2**20
CUDA_BUDGET = 768 * 2**20  # a GPU needs about a thousand rows at once, each of the whole vocabulary


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
    """Σ over chunks of loss(log_prob, entropy, rows): the value of `loss(linear_log_prob(...))`,
    for three products, not four.

    A row's gradient by its logits needs no more than ∂ℓ/∂log p and ∂ℓ/∂H
    (docs/kernels/policy_loss.md), and both are known as soon as the loss of its chunk is. So while
    the chunk's logits are there, the loss is asked for its own derivatives, and the gradients of
    hidden, weight and bias are taken at once; `backward` only multiplies them by the upstream
    gradient. A frozen head makes it two products, and a row whose derivatives are all 0 (clipped,
    without an advantage) costs the first alone.

    Args:
        hidden, weight, targets, bias, temperature, softcap: as in `linear_log_prob`.
        loss: takes log_prob [n], entropy [n] (None if it is not wanted) and rows, int64 [n], the
            chunk's rows in the caller's numbering; returns a scalar, what these rows add to the
            loss. Weights therefore come from the whole batch. Derivatives are taken by its first
            two arguments alone.
        mask: bool [N]; the other rows never reach the head or the loss.
        entropy: whether the loss is given the entropy.
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
        (loss, of each row), the second without a gradient, 0 where the mask is false.

    Raises:
        InputError: if shapes disagree, a target is out of range, a setting or the backend cannot be
            used, the loss returns no scalar or hangs on another tensor that needs a gradient, or
            `backward` is called twice.

    Example:
        >>> hidden, weight = torch.eye(2).requires_grad_(), torch.zeros(4, 2)
        >>> value, scored = linear_loss(hidden, weight, torch.tensor([0, 3]), lambda log_prob, *_: -log_prob.sum() / 2)
        >>> value.backward()
        >>> round(value.item(), 4), scored.log_prob.exp().tolist(), hidden.grad.shape
        (1.3863, [0.25, 0.25], torch.Size([2, 2]))
    """
    check(hidden, weight, targets, bias, mask, temperature)
    if (groups is not None and groups.shape != targets.shape) or (rows is not None and rows < 1):
        shape = None if groups is None else list(groups.shape)
        raise InputError(
            f"linear_loss takes groups [{len(targets)}], a number a row, and rows of at least 1; got {shape}, {rows}."
        )
    options = {
        "bias": bias,
        "temperature": temperature,
        "softcap": softcap,
        "mask": mask,
        "entropy": entropy,
    }
    name = (
        "torch"
        if torch.compiler.is_compiling()
        else chosen("linear_loss", hindrances(hidden, weight), backend)
    )
    if torch.compiler.is_compiling() or name == "reference":
        live = (
            torch.arange(len(targets), device=targets.device)
            if mask is None
            else mask.nonzero()[:, 0]
        )
        found = linear_log_prob(hidden, weight, targets, backend=backend, **options)  # type: ignore[arg-type]
        value = loss(
            found.log_prob[live], None if found.entropy is None else found.entropy[live], live
        )
        return value, LinearLogProb(*(None if x is None else x.detach() for x in found))  # type: ignore[arg-type]
    hidden, weight, bias = autocast_operands(hidden, weight, bias)
    check_targets(targets if mask is None else targets[mask], len(weight))
    if rows is None:
        room = budget or (BUDGET if hidden.device.type == "cpu" else CUDA_BUDGET)
        width = (
            len(weight)
            * statistics_type(hidden, weight).itemsize
            * steps(name).blocks(hidden.device, True)
        )
        rows = max(1, room // max(1, width))
    wanted = [
        x is not None and x.requires_grad and torch.is_grad_enabled()
        for x in (hidden, weight, bias)
    ]
    parts = chunks(len(targets), mask, groups, rows, targets.device)
    large = [part for part in parts if len(part) > rows]
    parts = [part for part in parts if len(part) <= rows]
    with torch.autocast(hidden.device.type, enabled=False):
        curve = Curve(
            None, float(temperature), softcap
        )  # the bias has to be an argument of its own
        asked = wanted if parts or not large else [False] * 3  # nothing comes of no chunk
        value, *columns = LinearLoss.apply(
            hidden, weight, bias, targets, loss, parts, curve, entropy, asked, name
        )
        if large:  # all of them together, so that the weight's gradient is rounded once
            live = torch.cat(large)
            options = {
                "bias": bias,
                "temperature": temperature,
                "softcap": softcap,
                "entropy": entropy,
                "budget": budget,
            }
            found = linear_log_prob(hidden[live], weight, targets[live], backend=backend, **options)  # type: ignore[arg-type]
            value = loss(found.log_prob, found.entropy, live) + (value if parts else 0)
            for column, its in zip(columns, found, strict=True):
                if column is not None:
                    column[live] = its.detach()
    return value, LinearLogProb(*columns)


def hindrances(hidden: Tensor, weight: Tensor, *_: object, **__: object) -> dict[str, str]:
    """Why each backend of `linear_loss` cannot take these arguments, in order of preference; empty
    if it can.

    Example:
        >>> hindrances(torch.eye(2), torch.eye(2))["torch"]
        ''
    """
    return of_log_prob(hidden, weight)
