"""Scoring more samples than fit into one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.types import Samples


def score(reward: Reward, samples: Samples, batch_size: int = 256) -> Tensor:
    """Return members' scores [B, M] of many samples, in batches, on the CPU. Their mean over
    members is what is ranked.

    Raises:
        InputError: naming the first sample whose score is NaN or infinite.
    """
    return checked_scores(
        in_batches(reward, reward.members, samples, batch_size), samples, type(reward).__name__
    )


@torch.no_grad()
def in_batches(
    reward: Reward, method: Callable[[Samples], Tensor], samples: Samples, batch_size: int = 256
) -> Tensor:
    """Return what a method of `reward` gives for each sample, [B, ...] on the CPU; the reward is in
    eval mode then.

    Example:
        >>> from rewardlab.rewards.rules import Length
        >>> reward = Length()
        >>> in_batches(reward, reward.forward, Samples(["hi", "hi"], ["hello to you", "go"]), batch_size=1).tolist()
        [3.0, 1.0]
    """
    was_training = reward.training
    reward.eval()
    device = next((parameter.device for parameter in reward.parameters()), torch.device("cpu"))
    starts = range(0, len(samples), batch_size)
    parts = [
        method(samples[start : start + batch_size].to(device)).cpu()
        for start in tqdm(starts, "scoring", leave=False, disable=None if len(starts) > 4 else True)
    ]
    reward.train(was_training)
    return torch.cat(parts)
