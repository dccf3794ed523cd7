"""Losses of a reward on preference pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rewardlab.losses.likelihood import check_shapes


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    labels: Tensor | None = None,
    margin: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """-p·log σ(d) - (1 - p)·log σ(-d) with d = r_chosen - r_rejected - margin, averaged over pairs
    and members.

    Bradley and Terry's likelihood (Biometrika 39, 1952), with p = 1 the loss of InstructGPT, arXiv
    2203.02155, equation 1, and Adv-RM, arXiv 2504.06141; the margin is Llama 2's, arXiv 2307.09288,
    equation 2. Adding the same number to both scores of a pair changes nothing.

    Args:
        chosen, rejected: scores [B], or [B, M], one column a member.
        labels: p [B], the chance that the chosen output is preferred: 1 by default, 0.5 for a tie.
        margin: [B], by how much the chosen output should lead; 0 by default.
        weights: [B, M] or [B] as the scores, how much a pair counts for a member (0 leaves it out);
            all 1 by default.

    Returns:
        A scalar, float32: the weighted mean; log 2 where all scores are equal.

    Example:
        >>> import torch
        >>> round(bradley_terry_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])).item(), 4)
        0.6931
    """
    check_shapes(chosen, rejected)
    lead = chosen.float() - rejected.float()
    if margin is not None:
        lead = lead - _column(margin, lead)
    target = lead.new_ones(()) if labels is None else _column(labels, lead)
    losses = binary_cross_entropy_with_logits(lead, target.expand_as(lead), reduction="none")
    return _mean(losses, weights)


def centring_loss(chosen: Tensor, rejected: Tensor, weights: Tensor | None = None) -> Tensor:
    """(r_chosen + r_rejected)², averaged over pairs and members: pulls each pair's mean to 0. arXiv
    2312.09244, equation 2.

    It settles the offset of each prompt, which Bradley and Terry's loss leaves free, at the price
    of a bias: a prompt whose outputs are all good is pulled to 0 too. 0.01 is a usual factor.

    Args:
        chosen, rejected: scores [B], or [B, M], one column a member.
        weights: as the scores, how much a pair counts for a member.

    Returns:
        A scalar, float32.

    Example:
        >>> import torch
        >>> centring_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -1.0])).item()
        2.0
    """
    check_shapes(chosen, rejected)
    return _mean((chosen.float() + rejected.float()).square(), weights)


def _column(values: Tensor, scores: Tensor) -> Tensor:
    """Return values [B] in float32 so that they broadcast over the members of scores [B] or [B, M],
    and over nothing else.
    """
    if values.shape != scores.shape[:1]:
        raise ValueError(
            f"labels and margin need one number a pair, [{len(scores)}]; got {list(values.shape)}"
        )
    return values.float().view(-1, *[1] * (scores.dim() - 1))


def _mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return losses.mean()
    check_shapes(losses, weights)
    return (losses * weights).sum() / weights.sum().clamp_min(1e-8)
