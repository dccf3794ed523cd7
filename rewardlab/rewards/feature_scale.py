"""The scale of features: mean and deviation of each over a set of samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError


class FeatureScale(NamedTuple):
    """What brings each feature to mean 0 and deviation 1, float64 [D] each."""

    mean: Tensor
    std: Tensor


def feature_scale(features: Tensor) -> FeatureScale:
    """Return mean and unbiased deviation of each feature; that of a constant one is taken as 1.

    Args:
        features: [N, D], of N >= 2 samples.

    Raises:
        InputError: if there are fewer than two rows, or one is not finite.

    Example:
        >>> scale = feature_scale(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> scale.mean.tolist(), [round(std, 3) for std in scale.std.tolist()]
        ([2.0, 5.0], [1.414, 1.0])
    """
    if len(features) < 2 or not torch.isfinite(features).all():
        raise InputError(
            f"Standardising needs at least two rows of finite features; got {list(features.shape)}."
        )
    std, mean = torch.std_mean(features.double(), dim=0)
    varies = std > 1e-6 * (1 + mean.abs())
    return FeatureScale(mean, std.where(varies, 1))
