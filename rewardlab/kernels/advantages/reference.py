"""The definition of generalized advantages: one step after the other, from the last."""

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
    """Return (advantages, returns) [B, T]; steps where the mask is false are passed over.

    Example:
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> reference(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), mask, 1.0, 0.5)[0].tolist()
        [[0.5, 1.0]]
    """
    next_value = rewards.new_zeros(len(rewards))  # of the next step that counts
    next_advantage = next_value
    columns: list[Tensor] = []
    for step in reversed(range(rewards.shape[1])):
        counts = mask[:, step]
        if ends is not None:
            goes_on = ~(counts & ends[:, step])
            next_value = next_value.where(goes_on, 0)
            next_advantage = next_advantage.where(goes_on, 0)
        reward = rewards[:, step].where(counts, 0)
        value = values[:, step].where(counts, 0)
        one_step_error = reward + discount * next_value - value
        advantage = one_step_error + discount * lam * next_advantage
        columns.append(advantage.where(counts, 0))
        next_value = value.where(counts, next_value)
        next_advantage = advantage.where(counts, next_advantage)
    columns.reverse()
    advantages = torch.stack(columns, 1)
    returns = advantages + values.where(mask, 0)
    return advantages, returns
