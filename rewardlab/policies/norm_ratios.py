"""NormGuard: how long a denoiser's velocities are beside its reference's, at no further pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.losses.velocity import norm_hinge, ratios_of_norms
from rewardlab.policies.abilities import Denoises
from rewardlab.policies.base import Policy
from rewardlab.types import Samples


class NormRatios:
    """Ratios ‖v‖/‖v_ref‖ of a policy and its reference, from log-probabilities a loop takes anyway.

    NormGuard, arXiv 2606.27771. Both networks are to see the same trajectories in the same order.
    Policies that do not denoise leave no record.

    Example:
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0))
        >>> samples = Samples([""], torch.rand(1, 1, 8, 8))
        >>> trajectory = policy.encode(samples, seeds=torch.tensor([0]))
        >>> ratios = NormRatios()
        >>> with ratios.of_reference(policy.reference()) as reference:
        ...     _ = reference.log_prob(trajectory)
        >>> with ratios.of_policy(policy):
        ...     _ = policy.log_prob(trajectory)
        >>> ratios.figures("")["norm_ratio"].item()
        1.0
    """

    def __init__(self) -> None:
        self._policy: list[Tensor] = []
        self._reference: list[Tensor] = []

    @contextmanager
    def of_policy(self, policy: Policy) -> Iterator[Policy]:
        """Record what the policy's network says in the `with` block."""
        with _recorded(policy) as self._policy:
            yield policy

    @contextmanager
    def of_reference(self, reference: Policy) -> Iterator[Policy]:
        """Record what the reference's network says in the `with` block, without gradient."""
        with torch.no_grad(), _recorded(reference) as self._reference:
            yield reference

    @property
    def ratios(self) -> Tensor | None:
        """The ratios [B, D] of D noisings or steps of each row; None without both records."""
        if not self._policy or not self._reference:
            return None
        return ratios_of_norms(torch.cat(self._policy), torch.cat(self._reference))

    def penalty(self, weight: float) -> Tensor | float:
        """Return weight · mean relu(ratio - 1)², with a gradient, or 0 without a weight.

        `check_norm_guard` refuses a weight for networks that leave no record.
        """
        ratios = self.ratios
        if not weight or ratios is None:
            return 0.0
        return weight * norm_hinge(ratios)

    def figures(self, prefix: str) -> dict[str, Tensor]:
        """Return the mean ratio as a figure to log; nothing where there is no record."""
        ratios = self.ratios
        if ratios is None:
            return {}
        return {f"{prefix}norm_ratio": ratios.detach().mean()}


def records_norms(policy: object) -> bool:
    """Tell whether a policy denoises and keeps a record of its velocities' norms.

    Example:
        >>> from rewardlab import CausalLMPolicy
        >>> from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
        >>> records_norms(CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer()))
        False
    """
    if not isinstance(policy, Denoises):
        return False
    return type(policy).recorded_norms is not Denoises.recorded_norms


def check_norm_guard(weight: float, policy: Policy, reference: Policy | None) -> None:
    """Refuse a weight of NormGuard's hinge that cannot be used.

    Raises:
        InputError: if it is negative, or the policy or its reference records no velocities.
    """
    if weight < 0:
        raise InputError(f"norm_guard is the weight of a penalty, 0 or more; got {weight:g}.")
    for network in (policy, reference):
        if weight and not records_norms(network):
            raise InputError(
                "norm_guard compares velocities of a policy and a reference that denoise and "
                f"define `recorded_norms`, such as DiffusionPolicy; a {type(network).__name__} "
                "does not. Leave norm_guard at 0."
            )


@torch.no_grad()
def norm_ratios_of(policy: Policy, reference: Policy, samples: Samples, seeds: Tensor) -> Tensor:
    """Return the mean ratio ‖v‖/‖v_ref‖ of each sample, float32 [B].

    It costs one pass of each network over the noised samples, without gradient.

    Args:
        policy: encodes the samples, `micro_batch` at a time; it `records_norms`.
        reference: its reference, which does too.
        samples: B pictures.
        seeds: int64 [B], of the noise.

    Example:
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0))
        >>> samples = Samples([""], torch.rand(1, 1, 8, 8))
        >>> norm_ratios_of(policy, policy.reference(), samples, torch.tensor([0])).tolist()
        [1.0]
    """
    means = []
    for rows in torch.split(torch.arange(len(samples)), policy.micro_batch or len(samples)):
        trajectory = policy.encode(samples[rows], seeds=seeds[rows])
        record = NormRatios()
        with record.of_reference(reference):
            reference.log_prob(trajectory)
        with record.of_policy(policy):
            policy.log_prob(trajectory)
        assert record.ratios is not None
        means.append(record.ratios.mean(1))
    return torch.cat(means)


@contextmanager
def _recorded(policy: Policy) -> Iterator[list[Tensor]]:
    """Collect the norms of a policy that denoises; of any other the list stays empty."""
    if not isinstance(policy, Denoises):
        yield []
        return
    with policy.recorded_norms() as norms:
        yield norms
