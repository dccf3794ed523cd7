"""How a diffusion policy noises finished pictures: with fresh noise, or with the noise they had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.denoising import after_dropout
from rewardlab.policies.noising import is_flow
from rewardlab.policies.schedulers import denoised, learns_variance
from rewardlab.seeds import generators, normal, uniform
from rewardlab.types import Samples, Trajectory

if TYPE_CHECKING:
    from rewardlab.policies.diffusion import DiffusionPolicy


def noised(
    policy: DiffusionPolicy, samples: Samples, seeds: Tensor, own: Tensor | None = None
) -> Trajectory:
    """Return samples noised to random times; see `DiffusionPolicy.encode`.

    Args:
        policy: whose autoencoder, noise levels and prompts are taken.
        samples: B images or videos.
        seeds: int64 [B], of times, noise and prompt dropout.
        own: the noise [B, *shape] to take at all times in place of a fresh one.
    """
    images = _images(policy, samples)
    rows = generators(seeds)
    latents = policy.family.to_latents(images, rows, policy.dtype)
    x0 = latents[:, None]
    uniforms = uniform((policy.draws,), rows, policy.device)
    noise = normal((policy.draws, *policy.shape), rows, policy.device)
    if own is not None:
        noise = own[:, None].expand_as(noise)
    steps = (uniforms * len(policy.noising.time)).long()
    levels = policy.noising.at(steps).over(latents.dim() - 1)
    share = policy.prompt_dropout if policy.training else 0.0
    prompts = after_dropout(samples.prompts, share, rows)
    conditions = policy.conditions(prompts, guided=False)
    tensors = {
        "x": levels.signal * x0 + levels.noise * noise,
        "target": levels.target_signal * x0 + levels.target_noise * noise,
        "time": policy.noising.time[steps],
        "precision": torch.ones_like(steps, dtype=torch.float32),
        "final": latents,
        **conditions.tensors(),
    }
    mask = torch.ones(len(samples), 1, dtype=torch.bool, device=policy.device)
    return Trajectory(samples.prompts, tensors, mask, samples.facts)


def prior_noise(policy: DiffusionPolicy, samples: Samples) -> Tensor:
    """Return the noise [B, *shape] that the policy's samples were drawn from.

    It is the first draw of each row's generator, so the fact "seed" gives it again, or
    "inner_seed" where a wrapper such as `BestOf` chose among the policy's outputs.

    Raises:
        InputError: if the samples have no seeds.
    """
    if "seed" not in samples.facts:
        raise InputError(
            'The noise that samples were drawn from follows from the fact "seed"; these have '
            f"{sorted(samples.facts) or 'no facts'}. Do they come from outside? Encode them with "
            "fresh noise."
        )
    seeds = samples.facts.get("inner_seed", samples.facts["seed"])
    return normal(policy.shape, generators(seeds), policy.device)


def check_own_noise(policy: DiffusionPolicy) -> None:
    """Refuse a policy whose pictures do not lie on a straight path from their first noise.

    Raises:
        InputError: if it is no rectified flow, or its steps add noise.
    """
    name = type(policy.scheduler).__name__
    if not is_flow(policy.scheduler):
        raise InputError(
            "Own noise needs a flow-matching policy, whose paths from noise to data are straight; "
            f"the scheduler {name} is of a curved schedule. Take fresh noise."
        )
    steps, eta = policy.sampler.steps, policy.sampler.eta
    if _steps_add_noise(policy.scheduler, steps, eta, policy.step_options()):
        raise InputError(
            "Own noise needs steps that add none, so that a picture follows from its first noise; "
            f"those of {name} do. Set the sampler's scheduler to flow, or take fresh noise."
        )


def _steps_add_noise(scheduler: Any, steps: int, eta: float, options: Mapping[str, Any]) -> bool:
    """Tell whether the steps' result depends on the generator, tried on zeros."""
    channels = 2 if learns_variance(scheduler) else 1

    def predict_zeros(x: Tensor, time: Tensor) -> Tensor:
        return x.new_zeros(1, channels, 1, 1)

    ends = []
    for seed in (0, 1):
        end = denoised(
            scheduler,
            torch.ones(1, 1, 1, 1),
            predict_zeros,
            steps=steps,
            eta=eta,
            row_generators=[torch.Generator().manual_seed(seed)],
            options=options,
        )
        ends.append(end)
    return not torch.equal(*ends)


def _images(policy: DiffusionPolicy, samples: Samples) -> Tensor:
    """Return the samples' images on the policy's device.

    Raises:
        InputError: if the outputs are texts.
    """
    if isinstance(samples.outputs, Tensor):
        return samples.outputs.to(policy.device)
    raise InputError(
        "DiffusionPolicy encodes images [B, C, H, W] in [0, 1]; got a list of "
        f"{len(samples)} strings. Was the data made for a language model?"
    )
