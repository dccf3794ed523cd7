"""Diffusion samplers as tables: every stochastic step is a Gaussian whose mean is linear in the
network's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError


@dataclass(frozen=True)
class Sampler:
    """How images are drawn from a diffusion model.

    Args:
        steps: denoising steps S.
        noise: how stochastic a step is: η of DDIM (arXiv 2010.02502, equation 16), or the level a
            of flow matching's SDE (Flow-GRPO, arXiv 2505.05470). 0 is deterministic: fine for
            generation, refused for rollouts. DDPM has no choice.
        guidance: scale of classifier-free guidance; 1 is none.
        scheduler: "pipeline" keeps the pipeline's own; "ddim" and "ddpm" replace it by that one on
            the same noise schedule.
        kept_steps: how many of a rollout's stochastic steps are kept for training, drawn anew for
            each row; all by default.

    Example:
        >>> Sampler(steps=20, guidance=4.0).noise
        1.0
    """

    steps: int = 50
    noise: float = 1.0
    guidance: float = 1.0
    scheduler: Literal["pipeline", "ddim", "ddpm"] = "pipeline"
    kept_steps: int | None = None


@dataclass(frozen=True)
class Transitions:
    """S steps x' = state · x + output · f(x, time) + noise · z, with z standard normal. All columns
    float64 [S].
    """

    time: Tensor
    state: Tensor
    output: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Noising:
    """How data are noised for training, by training step: x = signal · x0 + noise · ε, and the
    network's target.

    The target is of_signal · x0 + of_noise · ε. All columns float32 [N]; `time` is what the network
    is told.
    """

    time: Tensor
    signal: Tensor
    noise: Tensor
    of_signal: Tensor
    of_noise: Tensor


def is_flow(scheduler: Any) -> bool:
    """Return whether the scheduler is of flow matching: straight paths from noise to data, and a
    velocity to predict.
    """
    return "FlowMatch" in type(scheduler).__name__


def set_timesteps(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> None:
    """Lay out `steps` sampling steps."""
    try:
        scheduler.set_timesteps(steps, device=device)
    except ValueError as error:
        raise InputError(
            f"{type(scheduler).__name__} cannot lay out {steps} steps: {error}"
        ) from error


def transitions(scheduler: Any, sampler: Sampler) -> Transitions:
    """Return the table of the scheduler's steps, from its actual, strided times.

    Raises:
        InputError: if a rollout under this sampler has no density: it is deterministic, clips its
            predictions, or is of a kind that has no linear Gaussian step here.
    """
    name = type(scheduler).__name__
    if scheduler.config.get("clip_sample") or scheduler.config.get("thresholding"):
        raise InputError(
            f"Rollouts need Gaussian steps; this {name} clips its predictions (clip_sample or thresholding), which has no "
            "density. Set both to false in the scheduler's config."
        )
    set_timesteps(scheduler, sampler.steps)
    if name == "DDPMScheduler":
        return _ddpm(scheduler)
    if sampler.noise <= 0:
        raise InputError(
            f"Rollouts need a stochastic sampler; {name} with noise {sampler.noise:g} is deterministic, so its steps have no "
            "probability. Set sampler.noise to 1 (best-of-N, SFT and DPO work with any)."
        )
    if name == "DDIMScheduler":
        return _ddim(scheduler, sampler.noise)
    if is_flow(scheduler):
        return _flow(scheduler, sampler.noise)
    raise InputError(
        f"Rollouts need DDPM, DDIM or flow-matching steps; the pipeline's {name} has none. Set sampler.scheduler to ddim."
    )


def noising(scheduler: Any) -> Noising:
    """Return the table of training noise levels and of the network's target (ε, v, x0 or velocity)."""
    if is_flow(scheduler):
        sigma = _training_sigmas(scheduler)
        ones = torch.ones_like(sigma)
        return Noising(sigma * scheduler.config.num_train_timesteps, 1 - sigma, sigma, -ones, ones)
    kept = _alphas_cumprod(scheduler)
    signal = kept.sqrt()
    noise = (1 - kept).sqrt()
    zeros = torch.zeros_like(kept)
    ones = torch.ones_like(kept)
    of_signal, of_noise = {
        "epsilon": (zeros, ones),
        "v_prediction": (-noise, signal),
        "sample": (ones, zeros),
    }[scheduler.config.prediction_type]
    columns = (torch.arange(len(kept)), signal, noise, of_signal, of_noise)
    return Noising(*(column.float() for column in columns))


def _training_sigmas(scheduler: Any) -> Tensor:
    """Noise levels of the flow's training schedule, shifted as the scheduler's config says; near 0
    to 1, float32 [N].
    """
    steps = scheduler.config.num_train_timesteps
    sigma = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    shift = scheduler.config.get("shift", 1.0)
    return (shift * sigma / (1 + (shift - 1) * sigma)).float()


def _alphas_cumprod(scheduler: Any) -> Tensor:
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"The pipeline's {type(scheduler).__name__} has no training noise schedule that rewardlab knows; "
            "it reads variance-preserving schedules (alphas_cumprod) and flow matching."
        )
    return scheduler.alphas_cumprod.double()


def _x0_and_noise(kept: Tensor, prediction_type: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0 = p·x + q·f and ε = r·x + s·f for a network output f: (p, q, r, s), each [S]."""
    signal = kept.sqrt()
    noise = (1 - kept).sqrt()
    zeros = torch.zeros_like(kept)
    ones = torch.ones_like(kept)
    return {
        "epsilon": (1 / signal, -noise / signal, zeros, ones),
        "v_prediction": (signal, -noise, noise, signal),
        "sample": (zeros, ones, 1 / noise, -signal / noise),
    }[prediction_type]


def _ddim(scheduler: Any, eta: float) -> Transitions:
    """DDIM, arXiv 2010.02502, equations 12 and 16."""
    times = scheduler.timesteps.long().cpu()
    kept_all = _alphas_cumprod(scheduler)
    previous = times - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    kept = kept_all[times]
    following = kept_all[previous.clamp_min(0)].where(
        previous >= 0, scheduler.final_alpha_cumprod.double()
    )
    variance = eta**2 * (1 - following) / (1 - kept) * (1 - kept / following)
    direction = (1 - following - variance).clamp_min(0).sqrt()
    p, q, r, s = _x0_and_noise(kept, scheduler.config.prediction_type)
    return Transitions(
        times.double(),
        following.sqrt() * p + direction * r,
        following.sqrt() * q + direction * s,
        variance.clamp_min(0).sqrt(),
    )


def _ddpm(scheduler: Any) -> Transitions:
    """DDPM, arXiv 2006.11239, equation 7. A learned variance is replaced by the smaller fixed one."""
    times = scheduler.timesteps.long().cpu()
    kept_all = _alphas_cumprod(scheduler)
    previous = torch.tensor(
        [int(scheduler.previous_timestep(time)) for time in scheduler.timesteps]
    )
    kept = kept_all[times]
    following = kept_all[previous.clamp_min(0)].where(
        previous >= 0, torch.ones((), dtype=torch.float64)
    )
    step = kept / following
    of_x0 = following.sqrt() * (1 - step) / (1 - kept)
    of_x = step.sqrt() * (1 - following) / (1 - kept)
    large = str(scheduler.config.variance_type).startswith("fixed_large")
    variance = 1 - step if large else (1 - following) / (1 - kept) * (1 - step)
    p, q, _, _ = _x0_and_noise(kept, scheduler.config.prediction_type)
    return Transitions(
        times.double(),
        of_x0 * p + of_x,
        of_x0 * q,
        variance.where(times > 0, 0).clamp_min(0).sqrt(),
    )


def _flow(scheduler: Any, level: float) -> Transitions:
    """Flow matching's SDE with the ODE's marginals (Flow-GRPO, arXiv 2505.05470, equation 9), by
    Euler's rule.

    μ = x + [v + σ²/(2t)·(x + (1 - t)·v)]·Δt with noise σ·√|Δt| and σ = a·√(t/(1 - t)). 1 - t is
    kept at least as large as after the first step, where σ would be infinite; the last step adds no
    noise.
    """
    if scheduler.config.get("invert_sigmas") or scheduler.config.get("stochastic_sampling"):
        raise InputError(
            "Rollouts know flow matching from 1 (noise) to 0 (data) without re-noising; this scheduler differs."
        )
    t = scheduler.sigmas[:-1].double().cpu()
    following = scheduler.sigmas[1:].double().cpu()
    delta = following - t
    first = t[t < 1].max() if (t < 1).any() else torch.tensor(0.5, dtype=torch.float64)
    variance = level**2 * t / (1 - t).clamp_min(1 - first)
    variance = variance.where(following > 0, 0)
    drift = variance / (2 * t)
    return Transitions(
        scheduler.timesteps.double().cpu(),
        1 + drift * delta,
        delta * (1 + drift * (1 - t)),
        (variance * -delta).sqrt(),
    )
