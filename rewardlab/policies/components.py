"""The parts of a diffusers pipeline: the denoiser that is trained and the frozen encoders."""

from __future__ import annotations

from typing import Any

from torch import nn

from rewardlab.errors import InputError

DENOISERS = ("unet", "transformer")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def denoiser_name(pipeline: Any) -> str:
    """Return the name of the component that is trained: "unet" or "transformer".

    Raises:
        InputError: if the pipeline has neither.
    """
    for name in DENOISERS:
        if getattr(pipeline, name, None) is not None:
            return name
    raise InputError(
        "DiffusionPolicy needs a pipeline with a unet or a transformer; "
        f"{type(pipeline).__name__} has neither."
    )


def denoiser_of(pipeline: Any) -> nn.Module:
    """Return the network that is trained."""
    denoiser: nn.Module = getattr(pipeline, denoiser_name(pipeline))
    return denoiser


def encoders_of(pipeline: Any, *, text: bool = True) -> list[nn.Module]:
    """Return the frozen networks: the autoencoder and, if asked for, the text encoders."""
    names = ("vae", *TEXT_ENCODERS) if text else ("vae",)
    components = [getattr(pipeline, name, None) for name in names]
    return [component for component in components if isinstance(component, nn.Module)]
