"""What decodes latents: the contract of generators that are saved, and checks of any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.output_checks import check_range
from rewardlab.policies.folders import TO_TRUST
from rewardlab.storage.class_paths import named_class


class LatentGenerator(nn.Module, ABC):
    """A module from latents to pictures that can be saved beside the policy over its latents."""

    @abstractmethod
    def forward(self, latents: Tensor, prompts: list[str]) -> Tensor:
        """Return pictures [B, C, H, W] or videos [B, F, C, H, W], floats in [0, 1].

        Args:
            latents: float32 [B, *shape].
            prompts: B texts, which a generator without prompts ignores.
        """

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the generator into `folder`; its class's `from_pretrained(folder)` loads it."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, folder: str | Path) -> LatentGenerator:
        """Load what `save_pretrained` wrote."""


def read_generator(folder: Path, class_path: Any, trust: bool) -> LatentGenerator:
    """Return the generator that a policy's folder holds.

    Raises:
        InputError: if it holds none, or one of a class that is not trusted.
    """
    if not isinstance(class_path, str):
        raise InputError(
            f"{folder.parent} holds a Gaussian over latents without its generator, which was no "
            "LatentGenerator. Load it with LatentPolicy.from_pretrained(folder, generator)."
        )
    kind = named_class(folder, class_path, LatentGenerator, trust=trust, mend=TO_TRUST)
    generator: LatentGenerator = kind.from_pretrained(folder)
    return generator


def checked_outputs(outputs: Any, count: int) -> Tensor:
    """Return a generator's outputs as float32 in [0, 1].

    Args:
        outputs: what a generator returned for `count` latents.
        count: number of latents.

    Raises:
        InputError: if they are no float pictures or videos, one a latent, in [0, 1].

    Example:
        >>> checked_outputs(torch.rand(2, 3, 8, 8), 2).shape
        torch.Size([2, 3, 8, 8])
    """
    is_floating = isinstance(outputs, Tensor) and outputs.is_floating_point()
    if not is_floating or outputs.dim() not in (4, 5) or len(outputs) != count:
        kind = type(outputs).__name__
        if isinstance(outputs, Tensor):
            kind = f"{outputs.dtype} tensor {list(outputs.shape)}"
        raise InputError(
            f"A generator of {count} latents should return float pictures [{count}, C, H, W] or "
            f"videos [{count}, F, C, H, W] in [0, 1]; got a {kind}."
        )
    if not torch.isfinite(outputs).all():
        raise InputError("The generator returned pixels that are NaN or infinite.")
    check_range(outputs, "LatentPolicy")
    clamped: Tensor = outputs.float().clamp(0, 1)
    return clamped
