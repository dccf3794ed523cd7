"""Log-probabilities of given targets under a linear head, without the [N, V] logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.kernels.dispatch import Backend, chosen
from rewardlab.kernels.linear_log_prob.chunked import linear_logits
from rewardlab.kernels.linear_log_prob.matmul import autocast_operands
from rewardlab.kernels.linear_log_prob.op import (
    check_targets,
    hindrances,
    linear_log_prob_op,
    select_live,
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
    """Return log softmax(z)[target] of each row, z = cap(hidden · weightᵀ + bias) / temperature.

    Here cap(x) = softcap · tanh(x/softcap). All three results are differentiable. Products, sums
    and statistics are in float32 whatever the operands' type: no logit is ever rounded to bfloat16
    or float16.

    The backward pass recomputes the logits, tile by tile: ∂/∂z_j = a(1[j = target] - p_j) + b·p_j -
    h·p_j(z_j - Σ p z) for the upstream gradients a, b, h of the three results. The running maximum
    and sum are those of the online softmax (Milakov and Gimelshein, arXiv 1805.02867).

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
        batch_invariant: whether a row's three results must be the same to the bit whatever rows
            stand beside it. Libraries choose the order of a sum by the shape of the whole product,
            so only the fused Triton kernel can promise it. It costs speed, and more than
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
        reasons = hindrances(hidden, weight, batch_invariant=batch_invariant)
        name = chosen("linear_log_prob", reasons, backend)
    if name == "reference":
        return _of_reference(hidden, weight, targets, bias, mask, temperature, softcap, entropy)
    if not budget:
        budget = BUDGET if hidden.device.type == "cpu" else CUDA_BUDGET
    log_prob, log_sum_exp, entropies, _ = linear_log_prob_op(
        hidden,
        weight,
        targets,
        bias,
        mask,
        entropy,
        float(temperature),
        softcap,
        budget,
        name,
        batch_invariant,
    )
    return LinearLogProb(log_prob, log_sum_exp, entropies if entropy else None)


def check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    temperature: float,
) -> None:
    """Check that the operands fit together.

    Raises:
        InputError: if they do not.
    """
    fits = hidden.dim() == weight.dim() == 2
    fits = fits and hidden.shape[1] == weight.shape[1]
    fits = fits and targets.shape == hidden.shape[:1]
    if bias is not None:
        fits = fits and bias.shape == weight.shape[:1]
    if mask is not None:
        fits = fits and mask.shape == targets.shape
    if not fits:
        shapes = _shapes(hidden=hidden, weight=weight, targets=targets, bias=bias, mask=mask)
        raise InputError(
            "linear_log_prob takes hidden [N, D], weight [V, D], targets [N], bias [V], mask [N]; "
            f"got {shapes}."
        )
    if mask is not None and mask.dtype != torch.bool:
        raise InputError(f"linear_log_prob takes a bool mask; got {mask.dtype}.")
    if not temperature > 0:
        raise InputError(f"linear_log_prob needs a temperature above 0; got {temperature}.")


def _shapes(**operands: Tensor | None) -> str:
    shapes = []
    for name, operand in operands.items():
        if operand is not None:
            shapes.append(f"{name} {list(operand.shape)}")
    return ", ".join(shapes)


def _of_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
) -> LinearLogProb:
    """Return the results of the definition, 0 where the mask is false."""
    hidden, weight, bias = autocast_operands(hidden, weight, bias)
    with torch.autocast(hidden.device.type, enabled=False):
        live = select_live(hidden, targets, mask)
        check_targets(live.targets, len(weight))
        log_prob, log_sum_exp, entropies = reference(
            live.hidden, weight, live.targets, bias, temperature, softcap, entropy
        )
    if live.rows is not None:
        count = len(hidden)
        log_prob = _scattered(log_prob, live.rows, count)
        log_sum_exp = _scattered(log_sum_exp, live.rows, count)
        if entropies is not None:
            entropies = _scattered(entropies, live.rows, count)
    return LinearLogProb(log_prob, log_sum_exp, entropies)


def _scattered(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return [count] with the values in their rows, 0 elsewhere."""
    return values.new_zeros(count).index_put((rows,), values)
