"""The trainable part of a reward on features: K small networks side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rewardlab.errors import InputError
from rewardlab.seeds import derive


class RewardProjection(nn.Module):
    """K heads Linear(D, H) - GELU - dropout - Linear(H, 1) on standardised features, in one matrix
    product for all heads.

    The Reward Projection Layer of GAN-RM, arXiv 2506.13846, section 3.2; the paper does not give
    its widths. Heads start from different weights and may see different features, so that they can
    disagree. Head k is the same whatever the number of heads.

    Args:
        features: D, the length of a feature vector.
        heads: K.
        width: H, the hidden units of each head.
        dropout: share of hidden units that are dropped in training.
        feature_share: share of the D features that a head sees, drawn once from the seed; 1 gives
            all to all.
        seed: of the initial weights and of the feature subsets.

    Attributes:
        mask: [K, D], 1 where a head sees a feature.

    Example:
        >>> projection = RewardProjection(8, heads=3, width=4)
        >>> projection(torch.ones(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        features: int,
        heads: int = 1,
        width: int = 512,
        dropout: float = 0.0,
        feature_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(features, heads, width) < 1 or not 0 < feature_share <= 1 or not 0 <= dropout < 1:
            raise InputError(
                "RewardProjection needs heads and width of at least 1, feature_share in (0, 1] and dropout in [0, 1); "
                f"got heads={heads}, width={width}, feature_share={feature_share}, dropout={dropout}."
            )
        self.heads = heads
        self.width = width
        self.dropout = nn.Dropout(dropout)
        drawn = [
            _draw_head(features, width, feature_share, derive(seed, "head", k))
            for k in range(heads)
        ]
        mask, hidden_weight, hidden_bias, weight, bias = (
            torch.stack(column) for column in zip(*drawn, strict=True)
        )
        # [K, H, D], [K, H]
        self.hidden_weight = nn.Parameter(hidden_weight)
        self.hidden_bias = nn.Parameter(hidden_bias)
        # [K, H], [K]
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.register_buffer("mask", mask)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """Return a logit a head, float32 [B, K], from features [B, D]; computed in float32 under
        autocast too.
        """
        if features.dim() != 2 or features.shape[1] != len(self.mean):
            raise InputError(
                f"RewardProjection takes features [B, {len(self.mean)}]; got {list(features.shape)}. "
                "Were they cached from another tower or other settings?"
            )
        with torch.autocast(features.device.type, enabled=False):
            rows = (features.float() - self.mean) / self.std
            seen = (self.hidden_weight * self.mask[:, None]).flatten(0, 1)
            hidden = functional.gelu(functional.linear(rows, seen, self.hidden_bias.flatten()))
            hidden = self.dropout(hidden).unflatten(1, (self.heads, self.width))
            return torch.einsum("bkh,kh->bk", hidden, self.weight) + self.bias

    @torch.no_grad()
    def fit_feature_scale(self, features: Tensor) -> None:
        """Set the constants that bring each feature to mean 0 and deviation 1. A constant feature
        is only centred.

        Args:
            features: [N, D], of both classes together; N at least 2.

        Raises:
            InputError: if there are fewer than two rows, or one is not finite.
        """
        if len(features) < 2 or not torch.isfinite(features).all():
            raise InputError(
                f"Standardising needs at least two rows of finite features; got {list(features.shape)}."
            )
        std, mean = torch.std_mean(features.double(), dim=0)
        self.mean.copy_(mean)
        self.std.copy_(std.where(std > 1e-6 * (1 + mean.abs()), 1))


def _draw_head(features: int, width: int, feature_share: float, seed: int) -> tuple[Tensor, ...]:
    """Return a head's mask [D] and its weights, spread as torch's Linear does over the features
    that it sees.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = max(1, round(feature_share * features))
    mask = torch.zeros(features)
    mask[torch.randperm(features, generator=generator)[:seen]] = 1

    def spread(inputs: int, *shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) / inputs**0.5

    return (
        mask,
        spread(seen, width, features),
        spread(seen, width),
        spread(width, width),
        spread(width),
    )
