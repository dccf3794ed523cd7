"""Losses of a reward on preference pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rewardlab.losses.likelihood import check_shapes, weighted_mean


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    labels: Tensor | None = None,
    margin: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return -p·log σ(d) - (1 - p)·log σ(-d), averaged over pairs and members.

    Here d = r_chosen - r_rejected - margin. It is Bradley and Terry's likelihood (Biometrika 39,
    1952). With p = 1 it is the loss of InstructGPT, arXiv 2203.02155, equation 1, and of Adv-RM,
    arXiv 2504.06141. The margin is Llama 2's, arXiv 2307.09288, equation 2. Adding the same number
    to both scores of a pair changes nothing.

    Args:
        chosen, rejected: scores [B], or [B, M], one column a member.
        labels: p [B], the chance that the chosen output is preferred: 1 by default, 0.5 for a tie.
        margin: [B], the lead that the chosen output should have; 0 by default.
        weights: [B, M] or [B] as the scores, how much a pair counts for a member (0 leaves it out);
            all 1 by default.

    Returns:
        A scalar, float32: the weighted mean; log 2 where all scores are equal.

    Example:
        >>> import torch
        >>> scores = torch.tensor([1.0, 2.0])
        >>> round(bradley_terry_loss(scores, scores).item(), 4)
        0.6931
    """
    check_shapes(chosen, rejected)
    lead = chosen.float() - rejected.float()
    if margin is not None:
        lead = lead - _column(margin, lead)
    if labels is None:
        labels = chosen.new_ones(len(chosen))
    target = _column(labels, lead).expand_as(lead)
    losses = binary_cross_entropy_with_logits(lead, target, reduction="none")
    return weighted_mean(losses, weights)


def centering_loss(chosen: Tensor, rejected: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return (r_chosen + r_rejected)², averaged over pairs and members.

    It pulls each pair's mean to 0. arXiv 2312.09244, equation 2. It settles the offset of each
    prompt, which Bradley and Terry's loss leaves free, at the price of a bias: a prompt whose
    outputs are all good is pulled to 0 too. 0.01 is a usual factor.

    Args:
        chosen, rejected: scores [B], or [B, M], one column a member.
        weights: as the scores, how much a pair counts for a member.

    Returns:
        A scalar, float32.

    Example:
        >>> import torch
        >>> centering_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -1.0])).item()
        2.0
    """
    check_shapes(chosen, rejected)
    sums = chosen.float() + rejected.float()
    return weighted_mean(sums.square(), weights)


def batch_sum_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return (sum of all scores of the batch)² / B, averaged over members.

    It is the batch-wise sum-to-zero regularizer, BSR, of arXiv 2505.07271. It holds one number a
    batch near 0, so that scores cannot grow far apart from 0 together; the centering loss holds
    each pair. The square of a sum grows with B, so the weight belongs to a batch size.

    Args:
        chosen, rejected: scores of B pairs, [B], or [B, M], one column a member.

    Returns:
        A scalar, float32.

    Example:
        >>> import torch
        >>> batch_sum_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -1.0])).item()
        2.0
    """
    check_shapes(chosen, rejected)
    sums = (chosen.float() + rejected.float()).sum(0)
    return (sums.square() / len(chosen)).mean()


def _column(values: Tensor, scores: Tensor) -> Tensor:
    """Return values [B] in float32, shaped to broadcast over the members of scores alone.

    Scores are [B] or [B, M].
    """
    if values.shape != scores.shape[:1]:
        raise ValueError(
            f"labels and margin need one number a pair, [{len(scores)}]; got {list(values.shape)}"
        )
    members = [1] * (scores.dim() - 1)
    return values.float().view(-1, *members)


centring_loss = centering_loss  # its name before version 0.2
