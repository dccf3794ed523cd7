"""The trainable part of a reward on features: K small networks side by side."""

from __future__ import annotations

from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rewardlab.errors import InputError
from rewardlab.networks.precision import full_precision
from rewardlab.rewards.feature_scale import feature_scale
from rewardlab.seeds import derive


class RewardProjection(nn.Module):
    """K heads Linear(D, H) - GELU - dropout - Linear(H, 1) on standardised features.

    One matrix product serves all heads. This is the Reward Projection Layer of GAN-RM, arXiv
    2506.13846, section 3.2; the paper does not give its widths. Heads start from different weights
    and may see different features, so that they can disagree. Head k is the same whatever the
    number of heads.

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

    mask: Tensor
    mean: Tensor
    std: Tensor

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
        _check_sizes(features, heads, width, seed)
        _check_shares(feature_share, dropout)
        self.heads = heads
        self.width = width
        self.dropout = nn.Dropout(dropout)
        drawn_heads = []
        for k in range(heads):
            head_seed = derive(seed, "head", k)
            drawn_heads.append(_draw_head(features, width, feature_share, head_seed))
        # [K, H, D], [K, H]
        self.hidden_weight = nn.Parameter(torch.stack([head.hidden_weight for head in drawn_heads]))
        self.hidden_bias = nn.Parameter(torch.stack([head.hidden_bias for head in drawn_heads]))
        # [K, H], [K]
        self.weight = nn.Parameter(torch.stack([head.weight for head in drawn_heads]))
        self.bias = nn.Parameter(torch.stack([head.bias for head in drawn_heads]))
        self.register_buffer("mask", torch.stack([head.mask for head in drawn_heads]))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """Return a logit a head, float32 [B, K], from features [B, D].

        It is computed in float32 under autocast too.

        Raises:
            InputError: if the features have another length.
        """
        if features.dim() != 2 or features.shape[1] != len(self.mean):
            raise InputError(
                f"RewardProjection takes features [B, {len(self.mean)}]; got "
                f"{list(features.shape)}. Were they cached from another tower or other settings?"
            )
        with full_precision(features.device):
            rows = (features.float() - self.mean) / self.std
            seen_weight = (self.hidden_weight * self.mask[:, None]).flatten(0, 1)
            hidden = functional.linear(rows, seen_weight, self.hidden_bias.flatten())
            hidden = self.dropout(functional.gelu(hidden))
            hidden = hidden.unflatten(1, (self.heads, self.width))
            return torch.einsum("bkh,kh->bk", hidden, self.weight) + self.bias

    @torch.no_grad()
    def fit_feature_scale(self, features: Tensor) -> None:
        """Set the constants that bring each feature to mean 0 and deviation 1.

        A constant feature is only centred.

        Args:
            features: [N, D], of both classes together; N at least 2.

        Raises:
            InputError: if there are fewer than two rows, or one is not finite.
        """
        scale = feature_scale(features)
        self.mean.copy_(scale.mean)
        self.std.copy_(scale.std)


def _check_sizes(features: int, heads: int, width: int, seed: int) -> None:
    """Refuse what is no whole number; a saved folder's config can hold anything."""
    sizes = (features, heads, width)
    are_whole = not any(isinstance(number, bool) for number in sizes)
    for number in (*sizes, seed):
        are_whole &= isinstance(number, Integral)
    if not are_whole or min(sizes) < 1:
        raise InputError(
            "RewardProjection needs whole numbers of heads and of hidden units of at least 1, and "
            f"a whole seed; got heads={heads!r:.40}, width={width!r:.40}, seed={seed!r:.40} and "
            f"{features!r:.40} features."
        )


def _check_shares(feature_share: float, dropout: float) -> None:
    are_numbers = isinstance(feature_share, Real) and isinstance(dropout, Real)
    if not are_numbers or not 0 < feature_share <= 1 or not 0 <= dropout < 1:
        raise InputError(
            "RewardProjection needs feature_share in (0, 1] and dropout in [0, 1); got "
            f"feature_share={feature_share!r:.40}, dropout={dropout!r:.40}."
        )


class _Head(NamedTuple):
    """One head as it starts.

    Attributes:
        mask: [D], 1 where it sees a feature.
        hidden_weight: [H, D].
        hidden_bias: [H].
        weight: [H].
        bias: [].
    """

    mask: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    weight: Tensor
    bias: Tensor


def _draw_head(features: int, width: int, feature_share: float, seed: int) -> _Head:
    """Draw a head, its weights spread as torch's Linear does over the features that it sees."""
    generator = torch.Generator().manual_seed(seed)
    inputs = max(1, round(feature_share * features))
    mask = torch.zeros(features)
    mask[torch.randperm(features, generator=generator)[:inputs]] = 1

    def uniform(fan_in: int, *shape: int) -> Tensor:
        draws: Tensor = 2 * torch.rand(shape, generator=generator) - 1
        scale: float = fan_in**0.5
        return draws / scale

    hidden_weight = uniform(inputs, width, features)
    hidden_bias = uniform(inputs, width)
    weight = uniform(width, width)
    bias = uniform(width)
    return _Head(mask, hidden_weight, hidden_bias, weight, bias)
