"""The parts of a diffusers pipeline: the denoiser that is trained and the frozen encoders."""

from __future__ import annotations

from typing import Any

from torch import nn

from rewardlab.errors import InputError
from rewardlab.policies.timed_denoisers import TimedDenoisers

DENOISERS = ("unet", "transformer", "transformer_2")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def denoiser_name(pipeline: Any) -> str:
    """Return the name of the component that is trained: "unet" or "transformer".

    Raises:
        InputError: if the pipeline has neither.
    """
    return next(iter(_denoisers(pipeline)))


def denoiser_of(pipeline: Any) -> nn.Module:
    """Return the network that is trained; two that share the time are one."""
    denoisers = _denoisers(pipeline)
    boundary = boundary_of(pipeline)
    if boundary is None:
        return next(iter(denoisers.values()))
    return TimedDenoisers(denoisers["transformer"], denoisers["transformer_2"], boundary)


def boundary_of(pipeline: Any) -> float | None:
    """Return the time from which on the first of two denoisers runs; None where there is one."""
    ratio = pipeline.config.get("boundary_ratio")
    if ratio is None or getattr(pipeline, "transformer_2", None) is None:
        return None
    boundary: float = ratio * pipeline.scheduler.config.num_train_timesteps
    return boundary


def denoiser_parts(pipeline: Any, denoiser: nn.Module) -> dict[str, nn.Module]:
    """Return a pipeline's denoiser, or the two that it consists of, by the components' names."""
    if isinstance(denoiser, TimedDenoisers):
        return dict(denoiser.named_children())
    return {denoiser_name(pipeline): denoiser}


def encoders_of(pipeline: Any, *, text: bool = True) -> list[nn.Module]:
    """Return the frozen networks: the autoencoder and, if asked for, the text encoders."""
    names = ("vae", *TEXT_ENCODERS) if text else ("vae",)
    components = [getattr(pipeline, name, None) for name in names]
    return [component for component in components if isinstance(component, nn.Module)]


def _denoisers(pipeline: Any) -> dict[str, nn.Module]:
    """Return the components that denoise, by their names."""
    denoisers = {}
    for name in DENOISERS:
        component = getattr(pipeline, name, None)
        if component is not None:
            denoisers[name] = component
    if not denoisers:
        raise InputError(
            "DiffusionPolicy needs a pipeline with a unet or a transformer; "
            f"{type(pipeline).__name__} has neither."
        )
    return denoisers
