"""Pixels against the latents of an autoencoder, in the scale that its pipeline uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.networks.precision import arithmetic, full_precision
from rewardlab.seeds import normal


class LatentScale(NamedTuple):
    """The scale of latents: the autoencoder's z is latents · spread + center.

    Attributes:
        spread: [C, 1, …], or a number.
        center: [C, 1, …], or a number.
    """

    spread: Tensor
    center: Tensor

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Return what the autoencoder's decoder takes."""
        return latents * self.spread.to(latents) + self.center.to(latents)

    def to_denoiser(self, latents: Tensor) -> Tensor:
        """Return latents as the denoiser sees them."""
        return (latents - self.center.to(latents)) / self.spread.to(latents)


def latent_scale(vae: Any, reads: Sequence[str], dims: int) -> LatentScale:
    """Return the scale of an autoencoder's latents, from the numbers that its pipeline reads.

    Args:
        vae: an autoencoder of diffusers.
        reads: names of its config that the pipeline reads: "scaling_factor", "shift_factor", and
            "latents_mean" and "latents_std", which have a number for each channel.
        dims: number of dimensions behind the channels.

    Example:
        >>> from types import SimpleNamespace
        >>> vae = SimpleNamespace(config={"scaling_factor": 0.5, "shift_factor": 1.0})
        >>> scale = latent_scale(vae, ["scaling_factor", "shift_factor"], dims=0)
        >>> scale.to_autoencoder(torch.tensor([3.0]))
        tensor([7.])
    """
    numbers = {name: vae.config.get(name) for name in reads}
    factor = numbers.get("scaling_factor") or 1.0
    shift = numbers.get("shift_factor") or 0.0
    spread = torch.tensor(1 / factor, dtype=torch.float64)
    center = torch.tensor(shift, dtype=torch.float64)
    mean = numbers.get("latents_mean")
    std = numbers.get("latents_std")
    if mean is not None and std is not None:
        spread = spread * _column(std, dims)
        center = center + _column(mean, dims)
    return LatentScale(spread, center)


def encoded(
    vae: Any, pixels: Tensor, row_generators: list[torch.Generator], dtype: torch.dtype
) -> Tensor:
    """Return an autoencoder's latents of pixels in [-1, 1]: drawn, where it is variational.

    Args:
        vae: an autoencoder of diffusers.
        pixels: [B, C, …].
        row_generators: one per row.
        dtype: precision of the arithmetic.
    """
    with torch.no_grad(), _arithmetic(vae, pixels.device, dtype):
        encoding = vae.encode(pixels.to(vae.dtype))
    if not hasattr(encoding, "latent_dist"):
        return plain_latents(encoding).float()
    distribution = encoding.latent_dist
    mean: Tensor = distribution.mean.float()
    noise = normal(mean.shape[1:], row_generators, pixels.device)
    latents: Tensor = mean + distribution.std.float() * noise
    return latents


def decoded(vae: Any, latents: Tensor, dtype: torch.dtype, **options: Any) -> Tensor:
    """Return the pixels of an autoencoder's latents, about in [-1, 1], float32, differentiable."""
    with _arithmetic(vae, latents.device, dtype):
        pixels: Tensor = vae.decode(latents.to(vae.dtype), **options, return_dict=False)[0]
    return pixels.float()


def checkpoint_activations(vae: Any) -> bool:
    """Let the backward pass compute an autoencoder's activations anew; tell whether it can."""
    try:
        vae.enable_gradient_checkpointing()
    except (AttributeError, ValueError):  # how diffusers' say that they cannot
        return False
    return True


def overflows(vae: Any, dtype: torch.dtype) -> bool:
    """Tell whether an autoencoder asks for float32 in place of float16 (`force_upcast`)."""
    config: Any = getattr(vae, "config", None)
    return dtype == torch.float16 and bool(getattr(config, "force_upcast", False))


def plain_latents(encoding: Any) -> Tensor:
    """Return the latents of an autoencoder that is not variational, by either of their names."""
    latents: Tensor = encoding.latents if hasattr(encoding, "latents") else encoding.latent
    return latents


def _arithmetic(vae: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the context of an autoencoder: float32 where float16 would overflow."""
    if overflows(vae, dtype):
        return full_precision(device)
    return arithmetic(device, dtype)


def _column(values: Any, dims: int) -> Tensor:
    column = torch.as_tensor(values, dtype=torch.float64)
    return column.flatten().view(-1, *[1] * dims)
