"""The reference of a policy that trains an adapter: the same network with the adapter off."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.unregistered import hold
from rewardlab.policies.abilities import Adapted, Denoises, Denoisings
from rewardlab.policies.base import Policy
from rewardlab.types import Samples, Trajectory


class AdapterOff(Policy):
    """A policy as it was before its adapter: no second copy of the weights, and nothing to train.

    Args:
        policy: policy whose trainable weights are all in an adapter.

    Raises:
        InputError: if the policy has no adapter to switch off.
    """

    policy: Policy

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        if not isinstance(policy, Adapted):
            raise InputError(
                f"AdapterOff needs a policy with an adapter; {type(policy).__name__} does not "
                "derive from Adapted. Take frozen_copy(policy) as the reference."
            )
        hold(self, "policy", policy)  # a registered policy would be saved twice
        self.dimensions = policy.dimensions

    def sample(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Trajectory:
        with self._adapter_off():
            return self.policy.sample(prompts, seeds=seeds)

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        return self.policy.encode(samples, seeds=seeds)

    def decode(self, trajectory: Trajectory) -> Samples:
        return self.policy.decode(trajectory)

    @torch.no_grad()
    def log_prob(self, trajectory: Trajectory) -> Tensor:
        with self._adapter_off():
            return self.policy.log_prob(trajectory)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        with self._adapter_off():
            return self.policy.generate(prompts, seeds=seeds)

    def save_pretrained(self, folder: str | Path) -> None:
        raise NotImplementedError(
            "The reference is the policy without its adapter; save the policy."
        )

    def reference(self) -> Policy:
        return self

    def _adapter_off(self) -> AbstractContextManager[None]:
        assert isinstance(self.policy, Adapted)
        return self.policy.adapter_off()


class DenoiserOff(AdapterOff, Denoises):
    """A denoising policy as it was before its adapter."""

    @torch.no_grad()
    def denoisings(self, trajectory: Trajectory) -> Denoisings:
        assert isinstance(self.policy, Denoises)
        with self._adapter_off():
            return self.policy.denoisings(trajectory)

    def recorded_norms(self) -> AbstractContextManager[list[Tensor]]:
        assert isinstance(self.policy, Denoises)
        return self.policy.recorded_norms()
