"""The reference of a policy that trains an adapter: the same network with the adapter off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.networks.unregistered import hold
from rewardlab.policies.base import Policy
from rewardlab.types import Samples, Trajectory


class AdapterOff(Policy):
    """A policy as it was before its adapter: no second copy of the weights, and nothing to train.

    Args:
        policy: a policy whose trainable weights are all in an adapter, with a context manager
            `adapter_off()`.
    """

    policy: Any

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        hold(self, "policy", policy)  # or it would be saved twice
        self.dimensions = policy.dimensions

    def sample(self, prompts: Sequence[str], *, seeds: Tensor) -> Trajectory:
        with self.policy.adapter_off():
            return self.policy.sample(prompts, seeds=seeds)

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        return self.policy.encode(samples, seeds=seeds)

    def decode(self, trajectory: Trajectory) -> Samples:
        return self.policy.decode(trajectory)

    @torch.no_grad()
    def log_prob(self, trajectory: Trajectory) -> Tensor:
        with self.policy.adapter_off():
            return self.policy.log_prob(trajectory)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        with self.policy.adapter_off():
            return self.policy.generate(prompts, seeds=seeds)

    def save_pretrained(self, folder: str | Path) -> None:
        raise NotImplementedError(
            "The reference is the policy without its adapter; save the policy."
        )

    def reference(self) -> Policy:
        return self
