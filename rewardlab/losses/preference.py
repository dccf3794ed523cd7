"""Losses on preference pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from rewardlab.losses.likelihood import check_shapes


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
