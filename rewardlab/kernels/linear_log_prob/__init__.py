"""Log-probabilities of given targets under a linear head, without the [N, V] logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.kernels.dispatch import Backend, chosen
from rewardlab.kernels.linear_log_prob.chunked import autocast_operands, linear_logits
from rewardlab.kernels.linear_log_prob.op import (
    check_targets,
    compacted,
    hindrances,
    linear_log_prob_op,
)
from rewardlab.kernels.linear_log_prob.reference import reference

__all__ = ["LinearLogProb", "hindrances", "linear_log_prob", "linear_logits"]

BUDGET = 16 * 2**20
CUDA_BUDGET = 64 * 2**20


class LinearLogProb(NamedTuple):
    """What is known of each row's target: float32 [N] each (float64 for float64 operands).

    Attributes:
        log_prob: log p(target).
        log_sum_exp: of the row's logits; heads that each hold a part of the vocabulary merge by it.
        entropy: of the row's distribution, in nats; None if it was not asked for.
    """

    log_prob: Tensor
    log_sum_exp: Tensor
    entropy: Tensor | None


def linear_log_prob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    softcap: float | None = None,
    mask: Tensor | None = None,
    budget: int | None = None,
    batch_invariant: bool = False,
    backend: Backend | None = None,
) -> LinearLogProb:
    """Log softmax(z)[target] of each row, z = cap(hidden · weightᵀ + bias) / temperature, cap(x) =
    softcap · tanh(x/softcap).

    All three results are differentiable. Products, sums and statistics are in float32 whatever the
    operands' type: no logit is ever rounded to bfloat16 or float16. The backward pass computes the
    logits anew, tile by tile: ∂/∂z_j = a(1[j = target] - p_j) + b·p_j - h·p_j(z_j - Σ p z) for the
    upstream gradients a, b, h of the three results. The running maximum and sum are those of the
    online softmax (Milakov and Gimelshein, arXiv 1805.02867).

    Args:
        hidden: [N, D]. Under autocast float32 operands become its type first, as a linear layer's
            do.
        weight: [V, D].
        targets: int64 [N] in [0, V). A wrong one raises on the CPU; elsewhere its row is NaN, since
            to look would be to wait.
        bias: [V]; -inf forbids a token.
        temperature: divides the logits.
        entropy: whether the entropy is wanted.
        softcap: final soft cap on the logits, as in Gemma 2.
        mask: bool [N]; the other rows never reach the head. Their results and gradients are 0, even
            if they hold NaN.
        budget: bytes that the workspace may take, beside inputs, results and gradients: 16 MiB on a
            CPU, 64 MiB elsewhere.
        batch_invariant: a row's three results are the same to the bit whatever rows stand beside
            it. Libraries choose the order of a sum by the shape of the whole product, so only the
            fused Triton kernel can promise it. It costs speed, and more than
            `torch.use_deterministic_algorithms` asks for: every backend repeats itself on equal
            inputs.
        backend: "torch" is the tiled form, on any device; "triton" the same on CUDA, with each step
            on a tile in one pass; "reference" the definition, with all logits. By default the first
            that can run, see `hindrances`.

    Raises:
        InputError: if shapes disagree, a target is out of range, or the temperature or the backend
            cannot be used.

    Example:
        >>> hidden, weight = torch.eye(2), torch.zeros(4, 2)
        >>> result = linear_log_prob(hidden, weight, torch.tensor([0, 3]), entropy=True)
        >>> bool(torch.allclose(result.log_prob.exp(), torch.tensor([0.25, 0.25])))
        True
    """
    check(hidden, weight, targets, bias, mask, temperature)
    name: str = backend or "auto"
    if not torch.compiler.is_compiling():  # then it is the operator that chooses, when it runs
        name = chosen(
            "linear_log_prob", hindrances(hidden, weight, batch_invariant=batch_invariant), backend
        )
    if name == "reference":
        return _referred(hidden, weight, targets, bias, mask, temperature, softcap, entropy)
    room = budget or (BUDGET if hidden.device.type == "cpu" else CUDA_BUDGET)
    settings = entropy, float(temperature), softcap, room, name, batch_invariant
    log_prob, log_sum_exp, spread, _ = linear_log_prob_op(
        hidden, weight, targets, bias, mask, *settings
    )
    return LinearLogProb(log_prob, log_sum_exp, spread if entropy else None)


def check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    temperature: float,
) -> None:
    """Make sure that the operands fit together.

    Raises:
        InputError: if they do not.
    """
    fits = (
        hidden.dim() == weight.dim() == 2
        and hidden.shape[1] == weight.shape[1]
        and targets.shape == hidden.shape[:1]
    )
    fits = (
        fits
        and (bias is None or bias.shape == weight.shape[:1])
        and (mask is None or mask.shape == targets.shape)
    )
    if not fits:
        given = {"hidden": hidden, "weight": weight, "targets": targets, "bias": bias, "mask": mask}
        shapes = ", ".join(
            f"{name} {list(tensor.shape)}" for name, tensor in given.items() if tensor is not None
        )
        raise InputError(
            f"linear_log_prob takes hidden [N, D], weight [V, D], targets [N], bias [V], mask [N]; got {shapes}."
        )
    if mask is not None and mask.dtype != torch.bool:
        raise InputError(f"linear_log_prob takes a bool mask; got {mask.dtype}.")
    if not temperature > 0:
        raise InputError(f"linear_log_prob needs a temperature above 0; got {temperature}.")


def _referred(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
) -> LinearLogProb:
    hidden, weight, bias = autocast_operands(hidden, weight, bias)
    with torch.autocast(hidden.device.type, enabled=False):
        live, targets, rows = compacted(hidden, targets, mask)
        check_targets(targets, len(weight))
        values = reference(live, weight, targets, bias, temperature, softcap, entropy)
    if rows is None:
        return LinearLogProb(*values)
    whole = [x if x is None else x.new_zeros(len(hidden)).index_put((rows,), x) for x in values]
    return LinearLogProb(*whole)  # type: ignore[arg-type]
