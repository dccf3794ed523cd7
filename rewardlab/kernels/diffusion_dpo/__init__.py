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
    """Return mean((prediction - target)²) of each row, the denoising error S.

    It is minus twice a Gaussian step's log-probability. Both operands are read once forwards and
    once backwards in their own type. Differences and sums are in float32, and no float32 copy of an
    operand is made. The gradient 2(prediction - target)/n reaches prediction and target.

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
    """Return -log σ(-β/2 · [(S_w - S_l) - (S_w^ref - S_l^ref)]), where S = mean((ε̂ - ε)²).

    Diffusion-DPO, arXiv 2311.12908, equation 14. It is `rewardlab.losses.dpo_loss` of
    log-probabilities -S/2, for those who hold the networks' outputs. Each operand is read once
    forwards; backwards, those of the policy and the targets once more. References and targets are
    constants: no gradient reaches them.

    Args:
        chosen, rejected: the policy's predictions ε̂ [B, ...] for both images of each pair.
        reference_chosen, reference_rejected: the reference's predictions.
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
        >>> loss = diffusion_dpo_loss(zero, one, one, one, zero, zero, beta=2.0)
        >>> round(loss.item(), 4)  # -log σ(1)
        0.3133
    """
    _check(chosen=chosen, reference_chosen=reference_chosen, chosen_target=chosen_target)
    _check(
        rejected=rejected, reference_rejected=reference_rejected, rejected_target=rejected_target
    )
    if len(chosen) != len(rejected):
        raise InputError(
            "diffusion_dpo_loss takes pairs; "
            f"got {len(chosen)} chosen and {len(rejected)} rejected rows."
        )
    of_chosen = _error_over_reference(chosen, chosen_target, reference_chosen, backend)
    of_rejected = _error_over_reference(rejected, rejected_target, reference_rejected, backend)
    return softplus(beta / 2 * (of_chosen - of_rejected))


def _error_over_reference(
    prediction: Tensor,
    target: Tensor,
    reference_prediction: Tensor,
    backend: dispatch.Backend | None,
) -> Tensor:
    """Return S - S^ref [B], the error of the prediction less that of the reference's prediction."""
    errors = torch.ops.rewardlab.squared_error(
        prediction, target.detach(), reference_prediction.detach(), backend or ""
    )
    error, reference_error = errors.unbind()
    difference: Tensor = error - reference_error
    return difference


def hindrances(*operands: Tensor, **options: Any) -> dict[str, str]:
    """Return why each backend cannot run on these operands, an empty string for one that can.

    The backends are in order of preference.
    """
    triton = dispatch.triton_hindrance(operands[0].device)
    if not triton and _error_type(*operands) == torch.float64:
        triton = "an operand is float64, and the kernel's sums are float32"
    return {"triton": triton, "torch": "", "reference": ""}


_SCHEMA = "(Tensor prediction, Tensor target, Tensor? reference_prediction, str backend) -> Tensor"
_GRADIENT_SCHEMA = "(Tensor prediction, Tensor target, Tensor upstream, str backend) -> Tensor"


@operator("squared_error", _SCHEMA)
def _op(
    prediction: Tensor, target: Tensor, reference_prediction: Tensor | None, backend: str
) -> Tensor:
    """Return the errors [1, B] of the prediction.

    With a reference's prediction they are [2, B], and the target is read once for both.
    """
    predictions = _listed(prediction, reference_prediction)
    error_type = _error_type(*predictions, target)
    name = dispatch.chosen("squared_error", hindrances(*predictions, target), backend or None)
    if name == "triton":
        from rewardlab.kernels.diffusion_dpo import triton

        return triton.squared_errors(predictions, target)
    if name == "torch":
        return chunked.squared_errors(predictions, target, error_type)
    errors = [reference(prediction, target) for prediction in predictions]
    return torch.stack(errors).to(error_type)


@torch.library.register_fake("rewardlab::squared_error")
def _(
    prediction: Tensor, target: Tensor, reference_prediction: Tensor | None, backend: str
) -> Tensor:
    predictions = _listed(prediction, reference_prediction)
    shape = (len(predictions), len(prediction))
    return prediction.new_empty(shape, dtype=_error_type(*predictions, target))


def _listed(prediction: Tensor, reference_prediction: Tensor | None) -> list[Tensor]:
    if reference_prediction is None:
        return [prediction]
    return [prediction, reference_prediction]


@operator("squared_error_gradient", _GRADIENT_SCHEMA)
def _gradient(prediction: Tensor, target: Tensor, upstream: Tensor, backend: str) -> Tensor:
    """Return 2 · upstream · (prediction - target)/n in the prediction's type, contiguous."""
    name = dispatch.chosen("squared_error", hindrances(prediction, target), backend or None)
    width = prediction[:1].numel()
    coefficients = upstream * (2 / max(1, width))
    if name == "triton":
        from rewardlab.kernels.diffusion_dpo import triton

        return triton.scaled_difference(prediction, target, coefficients)
    return chunked.scaled_difference(prediction, target, coefficients)


@torch.library.register_fake("rewardlab::squared_error_gradient")
def _(prediction: Tensor, target: Tensor, upstream: Tensor, backend: str) -> Tensor:
    return prediction.new_empty(prediction.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    prediction, target, reference_prediction, ctx.backend = inputs
    reads_reference = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    ctx.save_for_backward(prediction, target, reference_prediction if reads_reference else None)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    prediction, target, reference_prediction = ctx.saved_tensors
    needs_prediction, needs_target, needs_reference, _ = ctx.needs_input_grad
    gradient = torch.ops.rewardlab.squared_error_gradient
    of_prediction = None
    of_target = None
    of_reference = None
    if needs_prediction:
        of_prediction = gradient(prediction, target, upstream[0], ctx.backend)
    if needs_reference:
        of_reference = gradient(reference_prediction, target, upstream[1], ctx.backend)
    if needs_target:
        of_target = gradient(target, prediction, upstream[0], ctx.backend)
        if reference_prediction is not None:
            other = gradient(target, reference_prediction, upstream[1], ctx.backend)
            of_target = of_target + other
    return of_prediction, of_target, of_reference, None


torch.library.register_autograd("rewardlab::squared_error", _backward, setup_context=_setup_context)


def _error_type(*operands: Tensor) -> torch.dtype:
    """Return float64 if an operand is, else float32."""
    if torch.float64 in [operand.dtype for operand in operands]:
        return torch.float64
    return torch.float32


def _check(**operands: Tensor) -> None:
    first = next(iter(operands.values()))
    fits = first.dim() >= 2
    for operand in operands.values():
        fits = fits and operand.shape == first.shape and operand.device == first.device
        fits = fits and operand.is_floating_point()
    if not fits:
        descriptions = []
        for name, operand in operands.items():
            shape = list(operand.shape)
            descriptions.append(f"{name} {operand.dtype} {shape} on {operand.device}")
        raise InputError(
            "Squared errors take floating-point tensors [B, ...] of one shape on one device; "
            f"got {', '.join(descriptions)}."
        )
    if not first[:1].numel() and len(first):
        raise InputError(
            "Squared errors are means over each row, and these rows are empty: "
            f"{list(first.shape)}."
        )
