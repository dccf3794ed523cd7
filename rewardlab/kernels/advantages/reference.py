"""The definition of generalised advantages: one step after the other, from the last."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    discount: float,
    lam: float,
    ends: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (advantages, returns) [B, T] of rewards and values [B, T]; steps out of the mask are
    passed over.

    Example:
        >>> reference(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), 1.0, 0.5)[0].tolist()
        [[0.5, 1.0]]
    """
    following = later = rewards.new_zeros(len(rewards))  # V and A of the next step that counts
    columns: list[Tensor] = []
    for step in reversed(range(rewards.shape[1])):
        counts = mask[:, step]
        if ends is not None:
            following, later = (
                each.where(~(counts & ends[:, step]), 0) for each in (following, later)
            )
        reward, value = (each[:, step].where(counts, 0) for each in (rewards, values))
        advantage = reward + discount * following - value + discount * lam * later
        columns.append(advantage.where(counts, 0))
        following = value.where(counts, following)
        later = advantage.where(counts, later)
    advantages = torch.stack(columns[::-1], 1)
    return advantages, advantages + values.where(mask, 0)
