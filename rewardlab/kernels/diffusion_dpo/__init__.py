"""Squared errors of predictions, row by row, and the Diffusion-DPO loss that is made of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rewardlab.errors import InputError
from rewardlab.kernels import dispatch
from rewardlab.kernels.diffusion_dpo import chunked
from rewardlab.kernels.diffusion_dpo.reference import reference
from rewardlab.kernels.operators import operator

__all__ = ["diffusion_dpo_loss", "hindrances", "squared_error"]


def squared_error(
    prediction: Tensor, target: Tensor, *, backend: dispatch.Backend | None = None
) -> Tensor:
    """mean((prediction - target)²) of each row: the denoising error S, and minus twice a Gaussian
    step's log-probability.

    Both operands are read once forwards and once backwards in their own type; differences and sums
    are in float32, and no float32 copy of an operand is made. The gradient 2(prediction - target)/n
    reaches prediction and target.

    Args:
        prediction: [B, ...], any floating-point type.
        target: the same shape; the type may be another.
        backend: "triton" (on CUDA), "torch" (pieces that fit a cache, on any device) or "reference"
            (the definition); by default the first of them that can run.

    Returns:
        S [B], float32 (float64 if an operand is).

    Raises:
        InputError: if shapes, types or devices disagree, rows are empty, or the backend cannot run.

    Example:
        >>> squared_error(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)).tolist()
        [5.0, 0.0]
    """
    _check(prediction=prediction, target=target)
    errors: Tensor = torch.ops.rewardlab.squared_error(prediction, target, None, backend or "")
    return errors[0]


def diffusion_dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_target: Tensor,
    rejected_target: Tensor,
    *,
    beta: float,
    backend: dispatch.Backend | None = None,
) -> Tensor:
    """-log σ(-β/2 · [(S_w - S_l) - (S_w^ref - S_l^ref)]), S = mean((ε̂ - ε)²). Diffusion-DPO,
    2311.12908, equation 14.

    It is `rewardlab.losses.dpo_loss` of log-probabilities -S/2, for those who hold the networks'
    outputs. Each operand is read once forwards; backwards, those of the policy and the targets once
    more. References and targets are constants: no gradient reaches them.

    Args:
        chosen, rejected: the policy's predictions ε̂ [B, ...] for both images of each pair.
        reference_chosen, reference_rejected: the reference's.
        chosen_target, rejected_target: the targets ε; one tensor twice where both images have equal
            noise.
        beta: strength of the pull towards the reference; thousands, since S is a mean (5000 for
            4x64x64 latents).
        backend: as in `squared_error`.

    Returns:
        The loss of each pair [B], float32; log 2 where policy and reference agree.

    Raises:
        InputError: as `squared_error`.

    Example:
        >>> one, zero = torch.ones(1, 4), torch.zeros(1, 4)
        >>> round(diffusion_dpo_loss(zero, one, one, one, zero, zero, beta=2.0).item(), 4)  # -log σ(1)
        0.3133
    """
    _check(chosen=chosen, reference_chosen=reference_chosen, chosen_target=chosen_target)
    _check(
        rejected=rejected, reference_rejected=reference_rejected, rejected_target=rejected_target
    )
    if len(chosen) != len(rejected):
        raise InputError(
            f"diffusion_dpo_loss takes pairs; got {len(chosen)} chosen and {len(rejected)} rejected rows."
        )
    operands = (
        (chosen, chosen_target, reference_chosen),
        (rejected, rejected_target, reference_rejected),
    )
    losses = [
        torch.ops.rewardlab.squared_error(
            prediction, target.detach(), of_reference.detach(), backend or ""
        )
        for prediction, target, of_reference in operands
    ]
    (chosen_error, chosen_reference), (rejected_error, rejected_reference) = (
        error.unbind() for error in losses
    )
    return softplus(
        beta / 2 * ((chosen_error - chosen_reference) - (rejected_error - rejected_reference))
    )


def hindrances(*operands: Tensor, **options: Any) -> dict[str, str]:
    """Why each backend cannot run on these operands; an empty string for one that can. In order of
    preference.
    """
    double = _kind(*operands) == torch.float64
    reason = "an operand is float64, and the kernel's sums are float32" if double else ""
    return {
        "triton": dispatch.triton_hindrance(operands[0].device) or reason,
        "torch": "",
        "reference": "",
    }


_SCHEMA = "(Tensor prediction, Tensor target, Tensor? reference_prediction, str backend) -> Tensor"
_GRADIENT_SCHEMA = "(Tensor prediction, Tensor target, Tensor upstream, str backend) -> Tensor"


@operator("squared_error", _SCHEMA)
def _op(
    prediction: Tensor, target: Tensor, reference_prediction: Tensor | None, backend: str
) -> Tensor:
    """The errors [1, B] of the prediction; [2, B] with those of the reference's prediction, the
    target being read once.
    """
    predictions = (
        [prediction] if reference_prediction is None else [prediction, reference_prediction]
    )
    chosen = dispatch.chosen("squared_error", hindrances(*predictions, target), backend or None)
    if chosen == "reference":
        return torch.stack([reference(each, target) for each in predictions]).to(
            _kind(*predictions, target)
        )
    if chosen == "torch":
        return chunked.squared_errors(predictions, target, _kind(*predictions, target))
    from rewardlab.kernels.diffusion_dpo import triton

    return triton.squared_errors(predictions, target)


@torch.library.register_fake("rewardlab::squared_error")
def _(
    prediction: Tensor, target: Tensor, reference_prediction: Tensor | None, backend: str
) -> Tensor:
    predictions = (
        [prediction] if reference_prediction is None else [prediction, reference_prediction]
    )
    return prediction.new_empty(
        (len(predictions), len(prediction)), dtype=_kind(*predictions, target)
    )


@operator("squared_error_gradient", _GRADIENT_SCHEMA)
def _gradient(prediction: Tensor, target: Tensor, upstream: Tensor, backend: str) -> Tensor:
    """2 · upstream · (prediction - target)/n in the prediction's type, contiguous."""
    chosen = dispatch.chosen("squared_error", hindrances(prediction, target), backend or None)
    coefficients = upstream * (2 / max(1, prediction[:1].numel()))
    if chosen == "triton":
        from rewardlab.kernels.diffusion_dpo import triton

        return triton.scaled_difference(prediction, target, coefficients)
    return chunked.scaled_difference(prediction, target, coefficients)


@torch.library.register_fake("rewardlab::squared_error_gradient")
def _(prediction: Tensor, target: Tensor, upstream: Tensor, backend: str) -> Tensor:
    return prediction.new_empty(prediction.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    prediction, target, reference_prediction, ctx.backend = inputs
    of_reference = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    ctx.save_for_backward(prediction, target, reference_prediction if of_reference else None)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    prediction, target, reference_prediction = ctx.saved_tensors
    wants_prediction, wants_target, wants_reference, _ = ctx.needs_input_grad
    op = torch.ops.rewardlab.squared_error_gradient
    gradients: list[Tensor | None] = [None, None, None, None]
    if wants_prediction:
        gradients[0] = op(prediction, target, upstream[0], ctx.backend)
    if wants_reference:
        gradients[2] = op(reference_prediction, target, upstream[1], ctx.backend)
    if wants_target:
        gradients[1] = op(target, prediction, upstream[0], ctx.backend)
        if reference_prediction is not None:
            gradients[1] = gradients[1] + op(target, reference_prediction, upstream[1], ctx.backend)
    return tuple(gradients)


torch.library.register_autograd("rewardlab::squared_error", _backward, setup_context=_setup_context)


def _kind(*operands: Tensor) -> torch.dtype:
    return (
        torch.float64
        if any(operand.dtype == torch.float64 for operand in operands)
        else torch.float32
    )


def _check(**operands: Tensor) -> None:
    first = next(iter(operands.values()))
    fits = all(
        each.shape == first.shape and each.device == first.device and each.is_floating_point()
        for each in operands.values()
    )
    if not fits or first.dim() < 2:
        given = ", ".join(
            f"{name} {each.dtype} {list(each.shape)} on {each.device}"
            for name, each in operands.items()
        )
        raise InputError(
            f"Squared errors take floating-point tensors [B, ...] of one shape on one device; got {given}."
        )
    if not first[:1].numel() and len(first):
        raise InputError(
            f"Squared errors are means over each row, and these rows are empty: {list(first.shape)}."
        )
