"""How a diffusion policy draws pictures that keep no steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.policies import samplers
from rewardlab.policies.denoising import Conditions
from rewardlab.policies.micro_batches import micro_batches
from rewardlab.policies.schedulers import denoised, learns_variance, steps_are_finite
from rewardlab.seeds import generators, normal
from rewardlab.types import Samples, concatenate

if TYPE_CHECKING:
    from rewardlab.policies.diffusion import DiffusionPolicy


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
    return policy.decode(policy.rollout(prompts, seeds, table))


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
