"""Callbacks that weigh what PPO drew: whose KL counts, and which good samples count more."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING

from torch import Tensor

from rewardlab.types import Samples

if TYPE_CHECKING:
    from rewardlab.training.ppo import PPO


class WeighsRollouts(ABC):  # noqa: B024  (each method may be left as it is)
    """A callback that PPO asks how much each sample of a rollout counts.

    By default nothing is changed. It is asked after the samples are scored, before any step.
    """

    def kl_shares(self, loop: PPO, samples: Samples, scores: Tensor) -> Tensor | None:
        """Return which share of the KL's weight each sample bears, float32 [B], or None for all.

        Args:
            loop: the loop, for its device and for logging.
            samples: B outputs, a prompt's together.
            scores: float32 [B], of the loop's reward.
        """
        return None

    def weighed(self, loop: PPO, samples: Samples, advantages: Tensor) -> Tensor:
        """Return the advantages [B, T] or [B, 1] as they count.

        Args:
            loop: the loop, for its device and for logging.
            samples: B outputs, a prompt's together.
            advantages: float32 [B, T], or [B, 1] where the steps of a row share one.
        """
        return advantages


def kl_shares(loop: PPO, samples: Samples, scores: Tensor) -> Tensor | None:
    """Return the product of what all callbacks of a loop say, float32 [B, 1], or None."""
    product = None
    for callback in loop.callbacks_of(WeighsRollouts):
        shares = callback.kl_shares(loop, samples, scores)
        if shares is not None:
            product = shares[:, None] if product is None else product * shares[:, None]
    return product


def weighed(loop: PPO, samples: Samples, advantages: Tensor) -> Tensor:
    """Return the advantages after all callbacks of a loop."""
    for callback in loop.callbacks_of(WeighsRollouts):
        advantages = callback.weighed(loop, samples, advantages)
    return advantages
