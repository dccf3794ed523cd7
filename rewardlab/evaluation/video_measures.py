"""How outputs move, where they are videos: measures that no reward is asked to raise."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.evaluation.features import features_of
from rewardlab.metrics import flicker, motion, temporal_consistency
from rewardlab.rewards import Reward
from rewardlab.types import Samples, take

CONSISTENCY = "temporal consistency"


def video_measures(samples: Samples, extractor: Reward | None = None) -> dict[str, Tensor]:
    """Return what can be measured of videos, float32 [B] by name; nothing of other outputs.

    "motion" needs two frames, "flicker" three, "temporal consistency" two and an extractor.

    Args:
        samples: B outputs of any kind.
        extractor: a reward with frozen features, which sees each frame as an image.

    Example:
        >>> import torch
        >>> video_measures(Samples([""], torch.zeros(1, 2, 3, 8, 8)))
        {'motion': tensor([0.])}
        >>> video_measures(Samples([""], ["a text"]))
        {}
    """
    videos = samples.outputs
    if not isinstance(videos, Tensor) or videos.dim() != 5 or videos.shape[1] < 2:
        return {}
    measures = {"motion": motion(videos).cpu()}
    if videos.shape[1] > 2:
        measures["flicker"] = flicker(videos).cpu()
    if extractor is not None:
        measures[CONSISTENCY] = temporal_consistency(_frame_features(samples, videos, extractor))
    return measures


def _frame_features(samples: Samples, videos: Tensor, extractor: Reward) -> Tensor:
    """Return the extractor's features of each frame, [B, F, D]."""
    count = videos.shape[1]
    prompts = take(samples.prompts, torch.arange(len(samples)).repeat_interleave(count))
    features = features_of(extractor, Samples(prompts, videos.flatten(0, 1)))
    return features.view(len(samples), count, *features.shape[1:])
