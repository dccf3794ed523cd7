"""Loss of a discriminator with soft labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rewardlab.losses.likelihood import weighted_mean


def discrimination_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """Return -y·log σ(R) - (1 - y)·log(1 - σ(R)), averaged over samples and heads.

    GAN-RM, arXiv 2506.13846, section 3.2.

    Args:
        logits: [B, M], one column a head.
        labels: [B] in [0, 1], 1 for target samples, 0 for the generator's own.
        weights: [B, M], how much a sample counts for a head (0 leaves it out); all 1 by default.
        label_smoothing: s moves labels from [0, 1] to [s/2, 1 - s/2], which bounds the best logit
            by log(2/s - 1).

    Returns:
        A scalar, float32: the weighted mean.

    Example:
        >>> import torch
        >>> round(discrimination_loss(torch.zeros(2, 3), torch.tensor([0.0, 1.0])).item(), 4)
        0.6931
    """
    smoothed = labels.float() * (1 - label_smoothing) + label_smoothing / 2
    targets = smoothed[:, None].expand_as(logits)
    losses = binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return weighted_mean(losses, weights)
