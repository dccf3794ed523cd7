"""Stable Diffusion 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.families.base import PLAIN, Family


class StableDiffusion(Family):
    """Stable Diffusion 1 and 2: a UNet that reads the text's tokens."""

    def __init__(self, pipeline: Any, size: Any = None, frames: int | None = None) -> None:
        super().__init__(pipeline, size, frames)
        if self.config.get("time_cond_proj_dim") is not None:
            raise InputError(
                f"The UNet of this {type(pipeline).__name__} is told the guidance (a latent "
                "consistency model), which DiffusionPolicy does not do. Take the model that it "
                "was distilled from."
            )

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the text's tokens."""
        tokens = self.pipeline.encode_prompt(list(prompts), device=device, **PLAIN)[0]
        return {"encoder_hidden_states": tokens}
