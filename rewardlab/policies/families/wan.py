"""Wan: videos from texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.families.flow import FlowFamily

SIZE = (480, 832)  # in pixels, the pipeline's own


class Wan(FlowFamily):
    """Wan 2.1, and models of 2.2 with one transformer."""

    reads: ClassVar[list[str]] = ["latents_mean", "latents_std"]

    def __init__(self, pipeline: Any, size: Any = None, frames: int | None = None) -> None:
        if getattr(pipeline, "transformer_2", None) is not None:
            raise InputError(
                "This Wan has two transformers, for early and for late steps, and DiffusionPolicy "
                "trains one. Take a Wan with one, such as 2.1."
            )
        if pipeline.config.get("expand_timesteps"):
            raise InputError(
                "This Wan gives each token a time of its own (expand_timesteps), which "
                "DiffusionPolicy does not do. Take a model for text to video, such as 2.1."
            )
        super().__init__(pipeline, size, frames)

    @property
    def factor(self) -> int:
        return int(self.pipeline.vae_scale_factor_spatial)

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        every = self.pipeline.vae_scale_factor_temporal
        count = self.latent_frames(frames, self.call_default("num_frames"), every)
        patch = self.config.patch_size[1]
        height, width = self.latent_size(size or SIZE, None, multiple=patch)
        return (self.config.in_channels, count, height, width)

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the states of the text, with zeros behind its end."""
        states, _ = self.encoded_prompts(prompts, device)
        return {"encoder_hidden_states": states}
