"""The latent whose picture is nearest to a given one, by gradient descent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.types import Samples, images_of

_RATE = 0.05
_PRIOR = 1e-4  # weight of the standard normal's negative log-density a component


def nearest_latents(
    decoded: Callable[[Tensor], Tensor], samples: Samples, start: Tensor, steps: int
) -> Tensor:
    """Return latents [B, D] whose pictures are near the samples', each row by itself.

    GAN inversion by optimization, as Image2StyleGAN, arXiv 1904.03189: Adam on the mean squared
    difference of pixels, with a weak pull to the standard normal.

    Args:
        decoded: maps latents [B, D] to pictures, with a gradient.
        samples: the pictures [B, C, H, W] or videos.
        start: first latents [B, D].
        steps: number of steps.

    Raises:
        InputError: if the pictures have another shape than the generator's.
    """
    targets = images_of(samples, "LatentPolicy", "C").to(start.device)
    latents = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=_RATE)
    for _ in range(steps):
        with torch.enable_grad():
            outputs = decoded(latents)
            _check_shape(outputs, targets)
            distances = (outputs - targets).square().flatten(1).mean(1)
            prior = latents.square().mean(1)
            loss = (distances + _PRIOR * prior).sum()
        (latents.grad,) = torch.autograd.grad(loss, [latents])
        optimizer.step()
    return latents.detach()


def _check_shape(outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape[1:] != targets.shape[1:]:
        raise InputError(
            f"The generator makes pictures {list(outputs.shape[1:])}; the samples are "
            f"{list(targets.shape[1:])}. Resize them when they are read."
        )
