"""Importance weights: what samples of one policy count under another."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rewardlab.errors import InputError

LEAST_SHARE = 0.1  # effective samples a sample, below which weights say nothing


class ImportanceWeights(NamedTuple):
    """Weights of N samples, and how much they leave.

    Attributes:
        weights: float64 [N], of mean 1.
        effective_share: (Σw)² / (N·Σw²): the effective sample size over N.
        clipped: how many were clipped.
    """

    weights: Tensor
    effective_share: float
    clipped: int


def importance_weights(log_ratios: Tensor, quantile: float = 0.95) -> ImportanceWeights:
    """Return self-normalized importance weights exp(log_ratios), clipped at a quantile of theirs.

    Self-normalized weights forgive a constant factor that nobody knows; the clip trades variance
    for a bias. Kish's effective sample size says what is left of N samples.

    Args:
        log_ratios: log π_now/π_behavior of N samples, [N].
        quantile: of the weights, at which larger ones are clipped; 1 clips none.

    Raises:
        InputError: if ratios are not finite, the quantile is out of range, or the effective sample
            size is below a tenth of N.

    Example:
        >>> import torch
        >>> log_ratios = torch.tensor([0.0, 0.0, 9.0])
        >>> weights, share, clipped = importance_weights(log_ratios, quantile=0.5)
        >>> weights.tolist(), share, clipped
        ([1.0, 1.0, 1.0], 1.0, 1)
    """
    if not 0 < quantile <= 1:
        raise InputError(
            f"Importance weights are clipped at a quantile above 0, up to 1; got {quantile:g}."
        )
    if not len(log_ratios) or not log_ratios.isfinite().all():
        raise InputError(
            "Importance weights need finite log-ratios of one sample or more; got "
            f"{int((~log_ratios.isfinite()).sum())} of {len(log_ratios)} that are not finite."
        )
    logs = log_ratios.detach().double().cpu()
    raw = (logs - logs.max()).exp()
    limit = raw.quantile(quantile)
    clipped = raw.clamp_max(limit)
    weights = clipped / clipped.mean()
    share = 1 / weights.square().mean().item()
    if share < LEAST_SHARE:
        raise InputError(
            f"Importance weights of {len(weights)} samples have an effective sample size of "
            f"{share * len(weights):.1f}, below a tenth: a few samples decide everything. The "
            "policies are too far apart. Temper the ratios, clip at a lower quantile, or train the "
            "policy for fewer steps."
        )
    return ImportanceWeights(weights, share, int((raw > limit).sum()))
