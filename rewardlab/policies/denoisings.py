"""What a diffusion policy's network says of encoded samples, for losses without a likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.policies.abilities import Denoisings
from rewardlab.policies.denoising import Conditions, stored_conditions
from rewardlab.policies.noising import is_flow, velocity_of
from rewardlab.types import Trajectory

if TYPE_CHECKING:
    from rewardlab.policies.diffusion import DiffusionPolicy


def denoisings_of(policy: DiffusionPolicy, trajectory: Trajectory) -> Denoisings:
    """Return the network's outputs at the noisings of an encoded trajectory, without guidance.

    Args:
        policy: whose network is asked.
        trajectory: result of `encode`, B rows.

    Returns:
        float32 [B, draws, *shape] each, differentiable by the policy's weights.

    Example:
        >>> import torch
        >>> from rewardlab import DiffusionPolicy, Samples
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), draws=2)
        >>> samples = Samples([""], torch.rand(1, 1, 8, 8))
        >>> denoisings_of(policy, policy.encode(samples, seeds=torch.tensor([0]))).output.shape
        torch.Size([1, 2, 1, 8, 8])
    """
    tensors = trajectory.tensors
    times = tensors["time"].flatten()
    draws = tensors["time"].shape[1]
    conditions = Conditions(stored_conditions(tensors).cond).repeated(draws)
    x = tensors["x"].flatten(0, 1)
    output = policy.predict(x, times, conditions)
    velocity = output
    if not is_flow(policy.scheduler):
        velocity = velocity_of(x, output, policy.noising.at_time(times))
    shape = tensors["x"].shape
    return Denoisings(output.view(shape), tensors["target"], velocity.view(shape))
