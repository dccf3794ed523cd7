"""The schedulers of diffusers: which one a policy uses, and images by its own steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.noising import flow_shift, is_flow

Kind = Literal["pipeline", "ddim", "ddpm", "flow"]
Predict = Callable[[Tensor, Tensor], Tensor]


def chosen_scheduler(scheduler: Any, kind: Kind) -> Any:
    """Return the pipeline's scheduler, or another on its noise schedule.

    Args:
        scheduler: the pipeline's own.
        kind: "pipeline" for that, "ddim" or "ddpm" without clipping, "flow" for flow matching's
            Euler steps.

    Raises:
        InputError: if the noise schedule is of the other kind.
    """
    if kind == "pipeline":
        return scheduler
    if is_flow(scheduler) != (kind == "flow"):
        mend = "flow" if is_flow(scheduler) else "ddim"
        raise InputError(
            f"sampler.scheduler={kind} is of another noise schedule than the pipeline's "
            f"{type(scheduler).__name__}. Take {mend} or pipeline."
        )
    import diffusers

    if kind == "flow":
        if "FlowMatchEuler" in type(scheduler).__name__:
            return scheduler
        return diffusers.FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=scheduler.config.num_train_timesteps, shift=flow_shift(scheduler)
        )
    classes: dict[str, Any] = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}
    config = dict(scheduler.config)
    # else numbers that the pipeline's scheduler has by default would be the other class's defaults
    config.pop("_use_default_values", None)
    chosen = classes[kind].from_config(config, clip_sample=False, thresholding=False)
    _copy_schedule(scheduler, chosen)
    return chosen


def _copy_schedule(source: Any, target: Any) -> None:
    """Give a scheduler another one's noise schedule, which its config may not say whole."""
    if not hasattr(source, "alphas_cumprod"):
        return
    target.alphas_cumprod = source.alphas_cumprod
    target.alphas = source.alphas_cumprod / torch.cat([torch.ones(1), source.alphas_cumprod[:-1]])
    target.betas = 1 - target.alphas
    if hasattr(target, "final_alpha_cumprod") and not target.config.set_alpha_to_one:
        target.final_alpha_cumprod = source.alphas_cumprod[0]


def set_timesteps(
    scheduler: Any,
    steps: int,
    device: torch.device | str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Lay out `steps` sampling steps.

    Steps beyond the end, at a negative time, are left out: some schedulers lay out one with
    trailing spacing.

    Args:
        scheduler: of diffusers.
        steps: number of steps.
        device: where the times are to lie.
        options: further arguments of `set_timesteps`, as the pipeline's family gives them.

    Raises:
        InputError: if the scheduler cannot.
    """
    try:
        scheduler.set_timesteps(steps, device=device, **(options or {}))
    except ValueError as error:
        raise InputError(
            f"{type(scheduler).__name__} cannot lay out {steps} steps: {error}"
        ) from error
    if len(scheduler.timesteps) and scheduler.timesteps[-1] < 0:
        scheduler.timesteps = scheduler.timesteps[scheduler.timesteps >= 0]


def learns_variance(scheduler: Any) -> bool:
    """Tell whether the scheduler's steps take a variance from the network."""
    return str(scheduler.config.get("variance_type")).startswith("learned")


def denoised(
    scheduler: Any,
    noise: Tensor,
    predict: Predict,
    *,
    steps: int,
    eta: float,
    row_generators: list[torch.Generator],
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return what standard normal noise [B, ...] becomes by the scheduler's own steps.

    Args:
        scheduler: a diffusers scheduler; it stays as it is.
        noise: where the images start.
        predict: maps x_t and its time [B] to the network's output.
        steps: number of steps.
        eta: η, for schedulers that take it.
        row_generators: one per row, for schedulers that add noise.
        options: as in `set_timesteps`.

    Raises:
        InputError: if the scheduler wants a learned variance and the network gives none.
    """
    scheduler = deepcopy(scheduler)
    set_timesteps(scheduler, steps, noise.device, options)
    step_options = _step_options(scheduler, eta, row_generators)
    step: Callable[..., Any] = partial(scheduler.step, **step_options, return_dict=False)
    if "old_pred_original_sample" in signature(scheduler.step).parameters:
        step = _with_memory(step)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for time in scheduler.timesteps:
        scaled = x
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(x, time)
        output = predict(scaled, time.expand(len(x)))
        _check_variance(scheduler, output, x)
        x = step(output, time, x)[0]
    return x


def _with_memory(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that remembers the prediction and the time of the step before it.

    CogVideoX's solver asks its caller for them.
    """
    x0: Tensor | None = None
    time_before: Tensor | None = None

    def remembering_step(output: Tensor, time: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal x0, time_before
        x, x0 = step(output, x0, time, time_before, x)
        time_before = time
        return x, x0

    return remembering_step


def _check_variance(scheduler: Any, output: Tensor, x: Tensor) -> None:
    """Refuse a network without the variance that the scheduler's steps take from it."""
    if learns_variance(scheduler) and output.shape[1] != 2 * x.shape[1]:
        kind = scheduler.config.variance_type
        raise InputError(
            f"The pipeline's {type(scheduler).__name__} has variance_type={kind!r} and takes the "
            f"variance from the network, which gives {output.shape[1]} channels for "
            f"{x.shape[1]} and so none. Set the scheduler's variance_type to 'fixed_small'."
        )


def _step_options(
    scheduler: Any, eta: float, row_generators: list[torch.Generator]
) -> dict[str, Any]:
    """Return the options that the scheduler's `step` accepts."""
    accepted = signature(scheduler.step).parameters
    options: dict[str, Any] = {}
    if "eta" in accepted:
        options["eta"] = eta
    if "generator" in accepted:
        options["generator"] = row_generators
    return options


def steps_are_finite(
    scheduler: Any, steps: int, eta: float, options: Mapping[str, Any] | None = None
) -> bool:
    """Tell whether the scheduler's own steps lead from zeros to finite numbers.

    Some of them take the root of a rounding error below 0, or its logarithm.

    Example:
        >>> from diffusers import DDPMScheduler
        >>> steps_are_finite(DDPMScheduler(variance_type="fixed_small"), steps=4, eta=1.0)
        True
    """
    channels = 2 if learns_variance(scheduler) else 1

    def predict_zeros(x: Tensor, time: Tensor) -> Tensor:
        return x.new_zeros(1, channels, 1, 1)

    latents = denoised(
        scheduler,
        torch.zeros(1, 1, 1, 1),
        predict_zeros,
        steps=steps,
        eta=eta,
        row_generators=[torch.Generator().manual_seed(0)],
        options=options,
    )
    return bool(latents.isfinite().all())
