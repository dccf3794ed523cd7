"""A reward's frozen features of many samples, for distances and monitors."""

from __future__ import annotations

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.scoring import in_batches
from rewardlab.types import Samples


def features_of(reward: Reward, samples: Samples) -> Tensor:
    """Return the reward's features of samples, flattened to float32 [B, D], on the CPU.

    Raises:
        InputError: if the reward has no frozen features.
    """
    extractor = frozen_features(reward)
    if extractor is None:
        raise InputError(
            f"A distance needs frozen features; got {type(reward).__name__}, which has none. Give "
            "a reward that derives from FrozenFeatures."
        )
    features = in_batches(reward, extractor.features, samples)
    return features.flatten(1).float()
