"""Diffusion samplers as tables of Gaussian steps, with means linear in the network's output."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.noising import alphas_cumprod, is_flow
from rewardlab.policies.schedulers import Kind, set_timesteps
from rewardlab.seeds import derive, generators, row_seeds, uniform

RENAMED = "`noise` of a Sampler is called `eta` now. Please rename it."


@dataclass(frozen=True, init=False)
class Sampler:
    """Settings by which images are drawn from a diffusion model.

    Args:
        steps: number of denoising steps S.
        eta: how stochastic a step is: η of DDIM (arXiv 2010.02502, equation 16), or the level a of
            flow matching's SDE (Flow-GRPO, arXiv 2505.05470). 0 is deterministic: fine for
            generation, refused for rollouts. DDPM ignores it.
        guidance: scale of classifier-free guidance; 1 is none.
        scheduler: "pipeline" keeps the pipeline's own; "ddim", "ddpm" and, for flow matching,
            "flow" (Euler's steps) replace it on the same noise schedule.
        kept_steps: number of a rollout's stochastic steps that are kept for training, chosen at
            random for each row; all by default.
        size: height and width in pixels of what `generate` draws, as to look at larger pictures
            than one trains on; the policy's own by default. Rollouts have the policy's size.
        late_guidance: scale of guidance in the steps of little noise, where a second denoiser has
            them (`guidance_scale_2` of Wan 2.2); by default that of the others.
        noise: former name of `eta`, deprecated.

    Example:
        >>> Sampler(steps=20, guidance=4.0).eta
        1.0
    """

    steps: int
    eta: float
    guidance: float
    scheduler: Kind
    kept_steps: int | None
    size: int | tuple[int, int] | None
    late_guidance: float | None

    def __init__(
        self,
        steps: int = 50,
        eta: float = 1.0,
        guidance: float = 1.0,
        scheduler: Kind = "pipeline",
        kept_steps: int | None = None,
        noise: float | None = None,
        size: int | tuple[int, int] | None = None,
        late_guidance: float | None = None,
    ) -> None:
        if noise is not None:
            warnings.warn(RENAMED, DeprecationWarning, stacklevel=2)
            eta = noise
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "eta", eta)
        object.__setattr__(self, "guidance", guidance)
        object.__setattr__(self, "scheduler", scheduler)
        object.__setattr__(self, "kept_steps", kept_steps)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "late_guidance", late_guidance)

    @property
    def noise(self) -> float:
        """Former name of `eta`, deprecated."""
        warnings.warn(RENAMED, DeprecationWarning, stacklevel=2)
        return self.eta


class Transition(NamedTuple):
    """One step x' = state · x + output · f(x, time) + noise · z."""

    time: float
    state: float
    output: float
    noise: float


@dataclass(frozen=True)
class Transitions:
    """S steps x' = state · x + output · f(x, time) + noise · z, with z standard normal.

    All columns are float64 [S].
    """

    time: Tensor
    state: Tensor
    output: Tensor
    noise: Tensor

    def steps(self) -> list[Transition]:
        """Return the steps in order, as numbers."""
        columns = [self.time, self.state, self.output, self.noise]
        return [Transition(*step) for step in torch.stack(columns, 1).tolist()]

    @property
    def stochastic(self) -> Tensor:
        """Which steps add noise, bool [S]."""
        return self.noise > 0

    @property
    def precision(self) -> Tensor:
        """(output/noise)² of each stochastic step, and 0 of the others; float32 [S]."""
        return (self.output / self.noise).square().where(self.stochastic, 0).float()


def transitions(
    scheduler: Any, sampler: Sampler, options: Mapping[str, Any] | None = None
) -> Transitions:
    """Return the table of the scheduler's steps, from its actual, strided times.

    Args:
        scheduler: of diffusers.
        sampler: number of steps, and how stochastic they are.
        options: as in `schedulers.set_timesteps`.

    Raises:
        InputError: if a rollout under this sampler has no density: it is deterministic, clips its
            predictions, or is of a kind that has no linear Gaussian step here.
    """
    name = type(scheduler).__name__
    if scheduler.config.get("clip_sample") or scheduler.config.get("thresholding"):
        raise InputError(
            f"Rollouts need Gaussian steps; this {name} clips its predictions (clip_sample or "
            "thresholding), which has no density. Set both to false in the scheduler's config."
        )
    set_timesteps(scheduler, sampler.steps, options=options)
    if name == "DDPMScheduler":
        return _ddpm(scheduler)
    if sampler.eta <= 0:
        raise InputError(
            f"Rollouts need a stochastic sampler; {name} with eta {sampler.eta:g} is "
            "deterministic, so its steps have no probability. Set sampler.eta to 1 (best-of-N, "
            "SFT and DPO work with any)."
        )
    if name == "DDIMScheduler":
        return _ddim(scheduler, sampler.eta)
    if name == "FlowMatchEulerDiscreteScheduler":
        return _flow(scheduler, sampler.eta)
    mend = "flow" if is_flow(scheduler) else "ddim"
    raise InputError(
        f"Rollouts need DDPM, DDIM or flow-matching steps; the pipeline's {name} has none. "
        f"Set sampler.scheduler to {mend}."
    )


def saved_sampler(settings: Mapping[str, Any]) -> Sampler:
    """Return the sampler of a policy.json. Earlier folders call `eta` `noise`.

    Example:
        >>> saved_sampler({"steps": 20, "noise": 0.5}).eta
        0.5
    """
    current = dict(settings)
    if "noise" in current:
        current["eta"] = current.pop("noise")
    return Sampler(**current)


def kept_steps(table: Transitions, count: int | None, seeds: Tensor) -> Tensor:
    """Return the numbers of the steps to train on, int64 [B, T], in order.

    They are all steps, or `count` stochastic ones that each row chooses by its seed.

    Raises:
        InputError: if there are fewer than `count` stochastic steps.
    """
    total = len(table.time)
    if count is None:
        return torch.arange(total).expand(len(seeds), total)
    stochastic = table.stochastic.nonzero()[:, 0]
    if not 1 <= count <= len(stochastic):
        raise InputError(
            f"sampler.kept_steps must be between 1 and the {len(stochastic)} stochastic steps; "
            f"got {count}."
        )
    row_generators = generators(row_seeds(derive(0, "kept steps"), seeds))
    order = uniform((len(stochastic),), row_generators).argsort(1)
    chosen = order[:, :count].sort(1).values
    return stochastic[chosen]


def select_steps(values: Tensor, steps: Tensor) -> Tensor:
    """Return values[b, steps[b]] of each row b: [B, S, ...] and [B, T] give [B, T, ...].

    Example:
        >>> select_steps(torch.tensor([[1, 2, 3]]), torch.tensor([[0, 2]])).tolist()
        [[1, 3]]
    """
    rows = torch.arange(len(steps), device=steps.device)
    return values[rows[:, None], steps]


class _OutputParts(NamedTuple):
    """x0 = x0_of_x · x + x0_of_f · f and ε = noise_of_x · x + noise_of_f · f for an output f.

    All columns are float64 [S].
    """

    x0_of_x: Tensor
    x0_of_f: Tensor
    noise_of_x: Tensor
    noise_of_f: Tensor


def _output_parts(alpha_bar: Tensor, prediction_type: str) -> _OutputParts:
    signal = alpha_bar.sqrt()
    noise = (1 - alpha_bar).sqrt()
    zeros = torch.zeros_like(alpha_bar)
    ones = torch.ones_like(alpha_bar)
    parts = {
        "epsilon": _OutputParts(1 / signal, -noise / signal, zeros, ones),
        "v_prediction": _OutputParts(signal, -noise, noise, signal),
        "sample": _OutputParts(zeros, ones, 1 / noise, -signal / noise),
    }
    return parts[prediction_type]


def _ddim(scheduler: Any, eta: float) -> Transitions:
    """DDIM, arXiv 2010.02502, equations 12 and 16."""
    times = scheduler.timesteps.long().cpu()
    schedule = alphas_cumprod(scheduler)
    next_times = times - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    alpha_bar = schedule[times]
    final = scheduler.final_alpha_cumprod.double()
    next_alpha_bar = schedule[next_times.clamp_min(0)].where(next_times >= 0, final)
    ratio = alpha_bar / next_alpha_bar
    variance = eta**2 * (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - ratio)
    signal = next_alpha_bar.sqrt()
    direction = (1 - next_alpha_bar - variance).clamp_min(0).sqrt()
    parts = _output_parts(alpha_bar, scheduler.config.prediction_type)
    return Transitions(
        time=times.double(),
        state=signal * parts.x0_of_x + direction * parts.noise_of_x,
        output=signal * parts.x0_of_f + direction * parts.noise_of_f,
        noise=variance.clamp_min(0).sqrt(),
    )


def _ddpm(scheduler: Any) -> Transitions:
    """DDPM, arXiv 2006.11239, equation 7.

    A learned variance is replaced by the smaller fixed one.
    """
    times = scheduler.timesteps.long().cpu()
    schedule = alphas_cumprod(scheduler)
    next_times = torch.tensor([int(scheduler.previous_timestep(t)) for t in scheduler.timesteps])
    alpha_bar = schedule[times]
    one = torch.ones((), dtype=torch.float64)
    next_alpha_bar = schedule[next_times.clamp_min(0)].where(next_times >= 0, one)
    alpha = alpha_bar / next_alpha_bar
    of_x0 = next_alpha_bar.sqrt() * (1 - alpha) / (1 - alpha_bar)
    of_x = alpha.sqrt() * (1 - next_alpha_bar) / (1 - alpha_bar)
    variance = (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - alpha)
    if str(scheduler.config.variance_type).startswith("fixed_large"):
        variance = 1 - alpha
    parts = _output_parts(alpha_bar, scheduler.config.prediction_type)
    return Transitions(
        time=times.double(),
        state=of_x0 * parts.x0_of_x + of_x,
        output=of_x0 * parts.x0_of_f,
        noise=variance.where(times > 0, 0).clamp_min(0).sqrt(),
    )


def _flow(scheduler: Any, level: float) -> Transitions:
    """Flow matching's SDE with the ODE's marginals (Flow-GRPO, arXiv 2505.05470, equation 9).

    A step of Euler's rule is μ = x + [v + σ²/(2t)·(x + (1 - t)·v)]·Δt with noise σ·√|Δt| and σ =
    a·√(t/(1 - t)). 1 - t is kept at least as large as after the first step, where σ would be
    infinite. The last step adds no noise.
    """
    if scheduler.config.get("invert_sigmas") or scheduler.config.get("stochastic_sampling"):
        raise InputError(
            "Rollouts know flow matching from 1 (noise) to 0 (data) without re-noising; this "
            "scheduler differs."
        )
    t = scheduler.sigmas[:-1].double().cpu()
    next_t = scheduler.sigmas[1:].double().cpu()
    delta = next_t - t
    first = t[t < 1].max() if (t < 1).any() else torch.tensor(0.5, dtype=torch.float64)
    variance = level**2 * t / (1 - t).clamp_min(1 - first)
    variance = variance.where(next_t > 0, 0)
    drift = variance / (2 * t)
    return Transitions(
        time=scheduler.timesteps.double().cpu(),
        state=1 + drift * delta,
        output=delta * (1 + drift * (1 - t)),
        noise=(variance * -delta).sqrt(),
    )
