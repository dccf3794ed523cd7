"""Discounted sums over time: returns, advantages, and whatever else is y_t = x_t + a_t · y_(t+1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.kernels import dispatch
from rewardlab.kernels.operators import operator
from rewardlab.kernels.scan import blocked
from rewardlab.kernels.scan.reference import reference

__all__ = ["discounted_sum", "hindrances"]


def discounted_sum(
    values: Tensor, decay: Tensor | float, *, backend: dispatch.Backend | None = None
) -> Tensor:
    """y_t = x_t + a_t · y_(t+1), y_T = 0: what is still to come after each step, discounted.

    A constant a is a discount, and y are returns; a decay of 0 ends an episode; with x = δ and a =
    γλ it is generalised advantage estimation (arXiv 1506.02438, equation 16). The pairs (a, x)∘(a',
    x') = (a·a', x + a·x') are associative, so the steps need not be taken one by one.
    Differentiable, as often as is wanted: the gradient g of y becomes the sum h_t = g_t + a_(t-1) ·
    h_(t-1) for x, and h_t · y_(t+1) for a_t.

    Args:
        values: x [B, T]; half precision is summed in float32.
        decay: a, [B, T] or one number for all steps. The last column of a tensor is not read:
            nothing follows it. It may be above 1; a sum that leaves float32's range is then
            infinite or NaN, and only then.
        backend: "triton" (one launch, on CUDA), "torch" (blocks of steps at once, on any device) or
            "reference" (the loop); by default the first of them that can run.

    Returns:
        y [B, T], float32 (float64 for float64 values).

    Raises:
        InputError: if shapes, types or devices disagree, or the backend cannot run.

    Example:
        >>> discounted_sum(torch.ones(1, 4), 0.5).tolist()
        [[1.875, 1.75, 1.5, 1.0]]
        >>> discounted_sum(torch.ones(1, 4), torch.tensor([[0.5, 0.0, 0.5, 0.5]])).tolist()
        [[1.5, 1.0, 1.5, 1.0]]
    """
    _check(values, decay)
    kind = torch.promote_types(values.dtype, torch.float32)
    per_step = decay.to(kind) if isinstance(decay, Tensor) else None
    constant = 0.0 if isinstance(decay, Tensor) else float(decay)
    sums: Tensor = torch.ops.rewardlab.discounted_sum(
        values.to(kind), per_step, constant, False, backend or ""
    )
    return sums


def hindrances(values: Tensor, decay: Tensor | float = 1.0) -> dict[str, str]:
    """Why each backend cannot run; an empty string for one that can. In order of preference."""
    double = (
        "the values are float64, and the kernel's sums are float32"
        if values.dtype == torch.float64
        else ""
    )
    return {
        "triton": dispatch.triton_hindrance(values.device) or double,
        "torch": "",
        "reference": "",
    }


_SCHEMA = "(Tensor values, Tensor? decay, float constant, bool transposed, str backend) -> Tensor"


@operator("discounted_sum", _SCHEMA)
def _op(
    values: Tensor, decay: Tensor | None, constant: float, transposed: bool, backend: str
) -> Tensor:
    """The sums as a linear map of the values; `transposed` is that map's transpose, y_t = x_t +
    a_(t-1) · y_(t-1).
    """
    chosen = dispatch.chosen("discounted_sum", hindrances(values), backend or None)
    if not values.numel():
        return values.new_empty(values.shape)
    if chosen == "triton":
        from rewardlab.kernels.scan import triton

        return triton.discounted_sum(values, decay, constant, transposed)
    run = blocked.discounted_sum if chosen == "torch" else reference
    if not transposed:
        return run(values, constant if decay is None else decay)
    # turned round in time it is the same sum, whose decays are one step earlier
    turned = constant if decay is None else decay.roll(1, 1).flip(1)
    return run(values.flip(1), turned).flip(1)


@torch.library.register_fake("rewardlab::discounted_sum")
def _(
    values: Tensor, decay: Tensor | None, constant: float, transposed: bool, backend: str
) -> Tensor:
    return values.new_empty(values.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, decay, *ctx.options = inputs
    wanted = decay is not None and ctx.needs_input_grad[1]
    ctx.save_for_backward(decay, output if wanted else None)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    decay, output = ctx.saved_tensors
    constant, transposed, backend = ctx.options
    of_values = torch.ops.rewardlab.discounted_sum(
        gradient, decay, constant, not transposed, backend
    )
    of_decay = None
    if output is not None:
        of_decay = torch.zeros_like(decay)
        earlier, later = (output, of_values) if transposed else (of_values, output)
        of_decay = torch.cat([earlier[:, :-1] * later[:, 1:], of_decay[:, :1]], 1)
    return of_values, of_decay, None, None, None


torch.library.register_autograd(
    "rewardlab::discounted_sum", _backward, setup_context=_setup_context
)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("rewardlab::discounted_sum", _device, torch.float32)


def _check(values: Tensor, decay: Tensor | float) -> None:
    if values.dim() != 2 or not values.is_floating_point():
        raise InputError(
            f"discounted_sum takes floating-point values [B, T]; got {values.dtype} {list(values.shape)}. "
            "One row of T steps is values[None]."
        )
    if not isinstance(decay, Tensor):
        return
    if (
        decay.shape != values.shape
        or decay.device != values.device
        or not decay.is_floating_point()
    ):
        raise InputError(
            f"discounted_sum takes a decay for each value: [B, T] = {list(values.shape)}, floating-point, on {values.device}; "
            f"got {decay.dtype} {list(decay.shape)} on {decay.device}. Give a number if it is the same for all steps."
        )
