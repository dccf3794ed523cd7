"""Discounted sums over time: returns, advantages, and any other y_t = x_t + a_t · y_(t+1)."""

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
    """Return y_t = x_t + a_t · y_(t+1), y_T = 0, what is still to come after each step, discounted.

    With a constant a, which is a discount, y are returns. A decay of 0 ends an episode. With x = δ
    and a = γλ it is generalized advantage estimation (arXiv 1506.02438, equation 16). The pairs
    (a, x)∘(a', x') = (a·a', x + a·x') are associative, so the steps need not be taken one by one.

    It is differentiable any number of times. The gradient g of y becomes the sum h_t = g_t +
    a_(t-1) · h_(t-1) for x, and h_t · y_(t+1) for a_t.

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
    sum_type = torch.promote_types(values.dtype, torch.float32)
    decays = None
    constant = 0.0
    if isinstance(decay, Tensor):
        decays = decay.to(sum_type)
    else:
        constant = float(decay)
    sums: Tensor = torch.ops.rewardlab.discounted_sum(
        values.to(sum_type), decays, constant, False, backend or ""
    )
    return sums


def hindrances(values: Tensor, decay: Tensor | float = 1.0) -> dict[str, str]:
    """Return why each backend cannot run, an empty string for one that can.

    The backends are in order of preference.
    """
    triton = dispatch.triton_hindrance(values.device)
    if not triton and values.dtype == torch.float64:
        triton = "the values are float64, and the kernel's sums are float32"
    return {"triton": triton, "torch": "", "reference": ""}


_SCHEMA = "(Tensor values, Tensor? decay, float constant, bool transposed, str backend) -> Tensor"


@operator("discounted_sum", _SCHEMA)
def _op(
    values: Tensor, decay: Tensor | None, constant: float, transposed: bool, backend: str
) -> Tensor:
    """Return the sums as a linear map of the values.

    The map's transpose, `transposed`, is y_t = x_t + a_(t-1) · y_(t-1).
    """
    name = dispatch.chosen("discounted_sum", hindrances(values), backend or None)
    if not values.numel():
        return values.new_empty(values.shape)
    if name == "triton":
        from rewardlab.kernels.scan import triton

        return triton.discounted_sum(values, decay, constant, transposed)
    run = blocked.discounted_sum if name == "torch" else reference
    decays = constant if decay is None else decay
    if not transposed:
        return run(values, decays)
    # reversed in time it is the same sum, whose decays are one step earlier
    if decay is not None:
        earlier = decay.roll(1, 1)
        decays = earlier.flip(1)
    sums = run(values.flip(1), decays)
    return sums.flip(1)


@torch.library.register_fake("rewardlab::discounted_sum")
def _(
    values: Tensor, decay: Tensor | None, constant: float, transposed: bool, backend: str
) -> Tensor:
    return values.new_empty(values.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, decay, *ctx.options = inputs
    needed = decay is not None and ctx.needs_input_grad[1]
    ctx.save_for_backward(decay, output if needed else None)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    decay, output = ctx.saved_tensors
    constant, transposed, backend = ctx.options
    of_values = torch.ops.rewardlab.discounted_sum(
        gradient, decay, constant, not transposed, backend
    )
    of_decay = None
    if output is not None and transposed:
        of_decay = _decay_gradient(output, of_values)
    elif output is not None:
        of_decay = _decay_gradient(of_values, output)
    return of_values, of_decay, None, None, None


def _decay_gradient(earlier: Tensor, later: Tensor) -> Tensor:
    """Return earlier_t · later_(t+1) [B, T], 0 for the last step."""
    products = earlier[:, :-1] * later[:, 1:]
    last = torch.zeros_like(earlier[:, :1])
    return torch.cat([products, last], 1)


torch.library.register_autograd(
    "rewardlab::discounted_sum", _backward, setup_context=_setup_context
)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("rewardlab::discounted_sum", _device, torch.float32)


def _check(values: Tensor, decay: Tensor | float) -> None:
    if values.dim() != 2 or not values.is_floating_point():
        raise InputError(
            "discounted_sum takes floating-point values [B, T]; "
            f"got {values.dtype} {list(values.shape)}. One row of T steps is values[None]."
        )
    if not isinstance(decay, Tensor):
        return
    fits = decay.shape == values.shape and decay.device == values.device
    if not fits or not decay.is_floating_point():
        raise InputError(
            "discounted_sum takes a decay for each value: "
            f"[B, T] = {list(values.shape)}, floating-point, on {values.device}; "
            f"got {decay.dtype} {list(decay.shape)} on {decay.device}. "
            "Give a number if it is the same for all steps."
        )
