"""CogVideoX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.policies.families.base import Family, Inputs


class CogVideoX(Family):
    """CogVideoX: one stream of text and video, frames before channels."""

    @property
    def factor(self) -> int:
        return int(self.pipeline.vae_scale_factor_spatial)

    @property
    def frame_factor(self) -> int:
        return int(self.pipeline.vae_scale_factor_temporal)

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        config = self.config
        # the decoder takes latents in twos behind the first, and adds frames to a single one
        twos = self.latent_frames(frames, config.sample_frames, 2 * self.frame_factor) - 1
        count = 2 * twos + 1
        if count % (config.patch_size_t or 1):
            raise InputError(
                f"This CogVideoX takes the latents of {config.patch_size_t} frames together; "
                f"{count} latents cannot be shared out. Give another number of frames."
            )
        default = (config.sample_height, config.sample_width)
        height, width = self.latent_size(size, default, multiple=config.patch_size)
        return (config.in_channels, count, height, width)

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the states of T5."""
        states, _ = self.encoded_prompts(prompts, device)
        return {"encoder_hidden_states": states}

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        output: Tensor = denoiser(
            hidden_states=x.transpose(1, 2),
            timestep=time,
            image_rotary_emb=self._rotations(x.device),
            **inputs,
            return_dict=False,
        )[0]
        return output.transpose(1, 2)

    def _rotations(self, device: torch.device) -> Any:
        """Return the rotary embedding of the positions, where the model has one."""
        if not self.config.use_rotary_positional_embeddings:
            return None
        frames, height, width = self.shape[1:]
        return self.pipeline._prepare_rotary_positional_embeddings(
            height * self.factor, width * self.factor, frames, device
        )
