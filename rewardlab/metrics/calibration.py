"""How well a probability says how often it is right."""

from __future__ import annotations

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics.columns import checked_columns, share_ties


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error, Σ_b n_b/N · |mean σ(logit) - mean label|.

    Naeini et al., AAAI 2015, in the binary form, over bins b of equal count (Nixon et al., arXiv
    1904.01685). Tied logits share their mean label, so the order of the rows does not matter. It is
    never negative, so even a perfect model has a positive one on few samples: about 0.4·√(bins/N)
    where probabilities are near 1/2.

    Args:
        logits: [N].
        labels: [N] in [0, 1], soft or hard.
        bins: how many; at most N are used.

    Example:
        >>> import torch
        >>> round(calibration_error(torch.zeros(4), torch.tensor([1, 1, 1, 0])), 6)
        0.25
    """
    values, truth = checked_columns(1, logits=logits, labels=labels)
    lowest = truth.min().item()
    highest = truth.max().item()
    if lowest < 0 or highest > 1:
        raise InputError(f"calibration_error needs labels in [0, 1]; got {lowest} to {highest}.")
    gaps = values.sigmoid() - share_ties(values, truth)
    ordered = gaps[values.argsort()]
    count = len(ordered)
    parts = ordered.tensor_split(min(bins, count))
    total = sum(part.sum().abs() for part in parts)
    return float(total / count)
