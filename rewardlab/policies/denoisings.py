"""What a diffusion policy's network says of noised samples: log-probabilities and velocities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from rewardlab.kernels.diffusion_dpo import squared_error
from rewardlab.policies.abilities import Denoisings
from rewardlab.policies.denoising import Conditions, stored_conditions
from rewardlab.policies.noising import is_flow, velocity_of
from rewardlab.types import Trajectory

if TYPE_CHECKING:
    from rewardlab.policies.diffusion import DiffusionPolicy


def log_probs_of(policy: DiffusionPolicy, trajectory: Trajectory) -> Tensor:
    """Return -precision/2 · mean((target - prediction)²) of each step, float32 [B, T].

    Inside of `recorded` the norms of the velocities are kept, too. They are of the guided output
    where the trajectory is of a guided rollout.

    Args:
        policy: whose network is asked.
        trajectory: result of `sample` or `encode`, B rows.
    """
    tensors = trajectory.tensors
    time = tensors["time"]
    conditions = stored_conditions(tensors).repeated(time.shape[1])
    x = tensors["x"].flatten(0, 1)
    target = tensors["target"].flatten(0, 1)
    prediction = policy.predict(x, time.flatten(), conditions)
    if policy._norms is not None:
        velocity = _velocity(policy, x, prediction, time.flatten())
        policy._norms.append(velocity.flatten(1).norm(dim=1).view_as(time))
    errors = squared_error(prediction, target).view_as(time)
    log_probs = -0.5 * tensors["precision"] * errors
    return log_probs.view(*trajectory.mask.shape, -1).mean(2)


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
    velocity = _velocity(policy, x, output, times)
    shape = tensors["x"].shape
    return Denoisings(output.view(shape), tensors["target"], velocity.view(shape))


@contextmanager
def recorded(policy: DiffusionPolicy) -> Iterator[list[Tensor]]:
    """Collect the norms that `log_probs_of` meets in the `with` block, each [B, D]."""
    before = policy._norms
    policy._norms = []
    try:
        yield policy._norms
    finally:
        policy._norms = before


def _velocity(policy: DiffusionPolicy, x: Tensor, output: Tensor, times: Tensor) -> Tensor:
    """Return the velocity that an output at x [N, ...] stands for, up to a positive factor."""
    if is_flow(policy.scheduler):
        return output
    return velocity_of(x, output, policy.noising.at_time(times))
