"""The parts of a diffusers pipeline: denoiser, frozen encoders, and pixels against latents."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.seeds import normal

DENOISERS = ("unet", "transformer")
ENCODERS = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def load_pipeline(source: Any) -> Any:
    """Return the diffusers pipeline of a folder or a hub id, or the pipeline itself.

    Raises:
        InputError: if there is none.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source
    import diffusers
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # diffusers shows one per component; ours is one per run
    kind: Any = diffusers.DiffusionPipeline
    local = os.path.isdir(source)
    try:
        return kind.from_pretrained(str(source), local_files_only=local)
    except (OSError, ValueError) as error:
        reason = "is no folder, nor a hub id in reach"
        if local:
            reason = "holds no diffusers pipeline (is model_index.json there?)"
        raise InputError(
            f"DiffusionPolicy cannot load {str(source)!r}: it {reason}. "
            f"{str(error).splitlines()[0]}"
        ) from error


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


def encoders_of(pipeline: Any) -> list[nn.Module]:
    """Return the frozen networks: the autoencoder and the text encoders."""
    components = [getattr(pipeline, name, None) for name in ENCODERS]
    return [component for component in components if isinstance(component, nn.Module)]


def latent_shape(denoiser: Any) -> tuple[int, ...]:
    """Return the shape of what is denoised: channels, height and width."""
    size = denoiser.config.sample_size
    if isinstance(size, int):
        size = (size, size)
    return (denoiser.config.in_channels, *size)


def to_latents(
    vae: Any, images: Tensor, row_generators: list[torch.Generator], shape: tuple[int, ...]
) -> Tensor:
    """Return latents [B, *shape] of images [B, C, H, W] in [0, 1].

    Without an autoencoder they are the pixels in [-1, 1].

    Raises:
        InputError: if they are of another shape.
    """
    latents = images * 2 - 1
    if vae is not None:
        latents = _encode(vae, latents, row_generators)
    if latents.shape[1:] != shape:
        raise InputError(
            f"This diffusion model denoises {list(shape)} (channels, height, width); images "
            f"{list(images.shape[1:])} become {list(latents.shape[1:])}. Resize and convert them "
            "in the data (size, channels)."
        )
    return latents.float()


def to_images(vae: Any, latents: Tensor) -> Tensor:
    """Return images [B, C, H, W] in [0, 1], float32, differentiable."""
    pixels: Tensor = latents
    if vae is not None:
        scaled = latents / vae.config.scaling_factor + _shift(vae)
        pixels = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def _encode(vae: Any, pixels: Tensor, row_generators: list[torch.Generator]) -> Tensor:
    distribution = vae.encode(pixels.to(vae.dtype)).latent_dist
    mean: Tensor = distribution.mean
    noise = normal(mean.shape[1:], row_generators, pixels.device)
    latents: Tensor = (mean + distribution.std * noise - _shift(vae)) * vae.config.scaling_factor
    return latents


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
