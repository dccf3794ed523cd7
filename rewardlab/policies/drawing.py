"""How a diffusion policy draws: rollouts that keep their steps, and pictures alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.policies import samplers
from rewardlab.policies.denoising import Conditions
from rewardlab.policies.micro_batches import micro_batches
from rewardlab.policies.samplers import Transitions
from rewardlab.policies.schedulers import denoised, learns_variance, steps_are_finite
from rewardlab.seeds import generators, normal
from rewardlab.types import Samples, Trajectory, concatenate

if TYPE_CHECKING:
    from rewardlab.policies.diffusion import DiffusionPolicy


def sampled(policy: DiffusionPolicy, prompts: Sequence[Prompt], seeds: Tensor) -> Trajectory:
    """Return one trajectory per prompt by steps whose density is known.

    Raises:
        InputError: if the sampler's steps have no density (see `samplers.transitions`).
    """
    table = samplers.transitions(policy.scheduler, policy.sampler, policy.step_options())
    rollouts = []
    for part in micro_batches(len(prompts), policy.micro_batch):
        rollouts.append(rollout(policy, prompts[part], seeds[part], table))
    trajectory: Trajectory = concatenate(rollouts)
    return trajectory


def rollout(
    policy: DiffusionPolicy, prompts: Sequence[Prompt], seeds: Tensor, table: Transitions
) -> Trajectory:
    """Return the trajectory of a table's steps, and of those that are kept for training."""
    rows = generators(seeds)
    conditions = policy.conditions(prompts, guided=policy.is_guided)
    x = normal(policy.shape, rows, policy.device)
    states = []
    targets = []
    for step in table.steps():
        time = x.new_full((len(x),), step.time)
        output = policy.predict(x, time, conditions)
        z = normal(policy.shape, rows, policy.device)
        states.append(x)
        targets.append(output + (step.noise / step.output) * z)
        x = step.state * x + step.output * output + step.noise * z
    kept = samplers.kept_steps(table, policy.sampler.kept_steps, seeds)
    steps = kept.to(policy.device)
    tensors = {
        "x": samplers.select_steps(torch.stack(states, 1), steps),
        "target": samplers.select_steps(torch.stack(targets, 1), steps),
        "time": table.time[kept].float().to(policy.device),
        "precision": table.precision[kept].to(policy.device),
        "final": x,
        **conditions.tensors(),
    }
    mask = table.stochastic[kept].to(policy.device)
    return Trajectory(prompts, tensors, mask, {"seed": seeds})


def drawn(policy: DiffusionPolicy, prompts: Sequence[Prompt], seeds: Tensor) -> Samples:
    """Return one output per prompt by the scheduler's own steps.

    Where those steps give no numbers, the outputs are drawn as rollouts are.
    """
    draw = _by_scheduler if _is_finite(policy) else _by_table
    parts = []
    for part in micro_batches(len(prompts), policy.micro_batch):
        parts.append(draw(policy, prompts[part], seeds[part]))
    samples: Samples = concatenate(parts)
    return samples


def _by_scheduler(policy: DiffusionPolicy, prompts: Sequence[Prompt], seeds: Tensor) -> Samples:
    rows = generators(seeds)
    conditions = policy.conditions(prompts, guided=policy.is_guided)
    latents = denoised(
        policy.scheduler,
        normal(policy.shape, rows, policy.device),
        _step_output(policy, conditions),
        steps=policy.sampler.steps,
        eta=policy.sampler.eta,
        row_generators=rows,
        options=policy.step_options(),
    )
    images = policy.family.to_images(latents, policy.dtype)
    return Samples(prompts, images, {"seed": seeds})


def _by_table(policy: DiffusionPolicy, prompts: Sequence[Prompt], seeds: Tensor) -> Samples:
    table = samplers.transitions(policy.scheduler, policy.sampler, policy.step_options())
    return policy.decode(rollout(policy, prompts, seeds, table))


def _is_finite(policy: DiffusionPolicy) -> bool:
    steps, eta = policy.sampler.steps, policy.sampler.eta
    if (steps, eta) not in policy.finite_steps:
        finite = steps_are_finite(policy.scheduler, steps, eta, policy.step_options())
        policy.finite_steps[steps, eta] = finite
    return policy.finite_steps[steps, eta]


def _step_output(
    policy: DiffusionPolicy, conditions: Conditions
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that gives the scheduler's steps what they take."""
    if learns_variance(policy.scheduler):
        return partial(policy.whole_output, conditions=conditions)
    return partial(policy.predict, conditions=conditions)
