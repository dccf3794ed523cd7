"""Losses on preference pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rewardlab.losses.likelihood import check_shapes

LARGEST_LOG_RATIO = 10.0  # of a whole output, before it is exponentiated


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Return -log σ(β · (log-ratio of chosen - log-ratio of rejected)) of each pair.

    DPO, arXiv 2305.18290, equation 7. With the log-probabilities of an image policy it is
    Diffusion-DPO, arXiv 2311.12908, equation 14, whose public code takes the mean over dimensions
    too; hence β of thousands there (5000 belongs to 4x64x64 latents).

    Args:
        chosen, rejected: log-probabilities [B] of whole outputs under the policy.
        reference_chosen, reference_rejected: the same [B] under the reference.
        beta: strength of the pull towards the reference.

    Returns:
        The loss of each pair [B], float32; log 2 where policy and reference agree.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> round(dpo_loss(one, one, one, one, beta=0.1).item(), 4)
        0.6931
    """
    margin = dpo_margin(chosen, rejected, reference_chosen, reference_rejected)
    return -logsigmoid(beta * margin)


def dpo_margin(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor
) -> Tensor:
    """Return (chosen - reference) - (rejected - reference), the implicit reward's margin over β.

    It is [B] in float32.

    Example:
        >>> import torch
        >>> dpo_margin(*torch.tensor([[3.0], [1.0], [2.0], [2.0]])).item()
        2.0
    """
    check_shapes(chosen, rejected, reference_chosen, reference_rejected)
    of_chosen = chosen.float() - reference_chosen.float()
    of_rejected = rejected.float() - reference_rejected.float()
    return of_chosen - of_rejected


def chi_po_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    reward_range: float = 10.0,
) -> Tensor:
    """Return -log σ(clip(β · (φ(z of chosen) - φ(z of rejected)), ±2R)) of each pair.

    χPO, arXiv 2407.13399, algorithm 1, with φ(z) = z + log z for z = π/π_ref: the link of the mixed
    χ² divergence in the place of DPO's log z. It needs log-probabilities in nats of whole outputs,
    so it is for text alone. See `mixed_chi2_link` for the cap on z. A pair beyond the clip has no
    gradient, as in the paper.

    Args:
        chosen, rejected: log-probabilities [B] of whole outputs under the policy, in nats.
        reference_chosen, reference_rejected: the same [B] under the reference.
        beta: strength of the pull towards the reference; near z = 1 the pull of DPO at 2·β.
        reward_range: R, the largest reward that is thought possible; the margin is clipped at ±2R.

    Returns:
        The loss of each pair [B], float32 (float64 for float64); log 2 where policy and reference
        agree.

    Example:
        >>> one = torch.ones(1)
        >>> round(chi_po_loss(one, one, one, one, beta=0.1).item(), 4)
        0.6931
    """
    check_shapes(chosen, rejected, reference_chosen, reference_rejected)
    links = mixed_chi2_link(chosen, reference_chosen)
    margin = beta * (links - mixed_chi2_link(rejected, reference_rejected))
    return -logsigmoid(margin.clamp(-2 * reward_range, 2 * reward_range))


def mixed_chi2_link(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return φ(z) = z + log z of z = exp(log_probs - reference), [B], for χPO.

    The ratio of whole outputs overflows soon, so log z is capped at 10 before it is exponentiated.
    Beyond the cap only the term log z goes on to rise. It is arXiv 2407.13399.

    Example:
        >>> mixed_chi2_link(torch.tensor([2.0, 50.0]), torch.tensor([2.0, 0.0])).tolist()
        [1.0, 22076.46484375]
    """
    kind = torch.promote_types(log_probs.dtype, torch.float32)
    log_ratios = log_probs.to(kind) - reference.to(kind)
    return log_ratios.clamp_max(LARGEST_LOG_RATIO).exp() + log_ratios
