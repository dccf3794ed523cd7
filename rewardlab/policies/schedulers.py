"""The schedulers of diffusers: which one a policy uses, and images by its own steps."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError

Kind = Literal["pipeline", "ddim", "ddpm"]
Predict = Callable[[Tensor, Tensor], Tensor]


def chosen_scheduler(scheduler: Any, kind: Kind) -> Any:
    """Return the pipeline's scheduler, or DDIM or DDPM without clipping on its noise schedule."""
    if kind == "pipeline":
        return scheduler
    import diffusers

    classes: dict[str, Any] = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}
    return classes[kind].from_config(scheduler.config, clip_sample=False, thresholding=False)


def set_timesteps(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> None:
    """Lay out `steps` sampling steps.

    Raises:
        InputError: if the scheduler cannot.
    """
    try:
        scheduler.set_timesteps(steps, device=device)
    except ValueError as error:
        raise InputError(
            f"{type(scheduler).__name__} cannot lay out {steps} steps: {error}"
        ) from error


def denoised(
    scheduler: Any,
    noise: Tensor,
    predict: Predict,
    *,
    steps: int,
    eta: float,
    row_generators: list[torch.Generator],
) -> Tensor:
    """Return what standard normal noise [B, ...] becomes by the scheduler's own steps.

    Args:
        scheduler: a diffusers scheduler; it stays as it is.
        noise: where the images start.
        predict: maps x_t and its time [B] to the network's output.
        steps: number of steps.
        eta: η, for schedulers that take it.
        row_generators: one per row, for schedulers that add noise.
    """
    scheduler = deepcopy(scheduler)
    set_timesteps(scheduler, steps, noise.device)
    options = _step_options(scheduler, eta, row_generators)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for time in scheduler.timesteps:
        scaled = x
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(x, time)
        output = predict(scaled, time.expand(len(x)))
        x = scheduler.step(output, time, x, **options, return_dict=False)[0]
    return x


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
