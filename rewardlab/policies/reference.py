"""References that share a policy's weights: its adapter off, or its trained weights of earlier."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.stand_ins import standing_in
from rewardlab.networks.unregistered import hold
from rewardlab.policies.abilities import Adapted, Denoises, Denoisings
from rewardlab.policies.base import Policy
from rewardlab.types import Samples, Trajectory


class SharedReference(Policy):
    """A policy as it was: no second copy of the frozen weights, and nothing to train.

    Args:
        policy: policy whose network is run with other trained weights.
    """

    policy: Policy

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        hold(self, "policy", policy)  # a registered policy would be saved twice
        self.dimensions = policy.dimensions

    def sample(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Trajectory:
        with self._as_it_was():
            return self.policy.sample(prompts, seeds=seeds)

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        return self.policy.encode(samples, seeds=seeds)

    def decode(self, trajectory: Trajectory) -> Samples:
        return self.policy.decode(trajectory)

    @torch.no_grad()
    def log_prob(self, trajectory: Trajectory) -> Tensor:
        with self._as_it_was():
            return self.policy.log_prob(trajectory)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        with self._as_it_was():
            return self.policy.generate(prompts, seeds=seeds)

    def save_pretrained(self, folder: str | Path) -> None:
        raise NotImplementedError("A reference has no weights of its own to save; save the policy.")

    def reference(self) -> Policy:
        return self

    @abstractmethod
    def _as_it_was(self) -> AbstractContextManager[None]:
        """Return a context in which the policy is what it was."""


class SharedDenoiser(SharedReference, Denoises):
    """A denoising policy as it was."""

    @torch.no_grad()
    def denoisings(self, trajectory: Trajectory) -> Denoisings:
        assert isinstance(self.policy, Denoises)
        with self._as_it_was():
            return self.policy.denoisings(trajectory)

    def recorded_norms(self) -> AbstractContextManager[list[Tensor]]:
        assert isinstance(self.policy, Denoises)
        return self.policy.recorded_norms()


class AdapterOff(SharedReference):
    """A policy as it was before its adapter: no second copy of the weights, and nothing to train.

    Args:
        policy: policy whose trainable weights are all in an adapter.

    Raises:
        InputError: if the policy has no adapter to switch off.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        if not isinstance(policy, Adapted):
            raise InputError(
                f"AdapterOff needs a policy with an adapter; {type(policy).__name__} does not "
                "derive from Adapted. Take frozen_copy(policy) as the reference."
            )

    def _as_it_was(self) -> AbstractContextManager[None]:
        assert isinstance(self.policy, Adapted)
        return self.policy.adapter_off()


class DenoiserOff(AdapterOff, SharedDenoiser):
    """A denoising policy as it was before its adapter."""


class Snapshot(SharedReference):
    """A policy as it was when the snapshot was taken: copies of its trained weights alone.

    Of a policy with an adapter that is a second adapter, and not a second model.

    Args:
        policy: the policy that goes on training.
        first: the reference whose place the snapshot takes.
        values: trained weights to stand for; by default copies of those that it has now.

    Raises:
        InputError: if the policy trains nothing, or the values are another policy's.

    Example:
        >>> from rewardlab.policies import CausalLMPolicy
        >>> from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), lora_rank=2)
        >>> snapshot = Snapshot(policy, policy.reference())
        >>> sum(value.numel() for value in snapshot.values) < 3000
        True
    """

    first: Policy

    def __init__(
        self, policy: Policy, first: Policy, values: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__(policy)
        hold(self, "first", first_reference(first))
        self.weights = [weight for weight in policy.parameters() if weight.requires_grad]
        if values is None:
            values = [weight.detach().clone() for weight in self.weights]
        self.values = list(values)
        shapes = [weight.shape for weight in self.weights]
        if not shapes or shapes != [value.shape for value in self.values]:
            raise InputError(
                f"A snapshot of a {type(policy).__name__} holds its {len(shapes)} trained weights; "
                f"got {len(self.values)} values of these or other shapes. Is the policy frozen, or "
                "the checkpoint another policy's? Give one with something to train."
            )

    def _as_it_was(self) -> AbstractContextManager[None]:
        return standing_in(self.weights, self.values)


class DenoiserSnapshot(Snapshot, SharedDenoiser):
    """A denoising policy as it was when the snapshot was taken."""


def snapshot_of(policy: Policy, first: Policy, values: Sequence[Tensor] | None = None) -> Snapshot:
    """Return a frozen snapshot of any policy (see `Snapshot`), which denoises if the policy does.

    Args:
        policy: the policy that goes on training.
        first: the reference whose place the snapshot takes.
        values: trained weights to stand for; by default copies of those that it has now.
    """
    kind = DenoiserSnapshot if isinstance(policy, Denoises) else Snapshot
    return kind(policy, first, values).eval()


def first_reference(reference: Policy) -> Policy:
    """Return the reference that a loop began with, whatever took its place since.

    Example:
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0))
        >>> first = policy.reference()
        >>> first_reference(snapshot_of(policy, first)) is first
        True
    """
    return reference.first if isinstance(reference, Snapshot) else reference
