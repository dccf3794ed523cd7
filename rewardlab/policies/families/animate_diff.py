"""AnimateDiff: Stable Diffusion with layers of motion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.policies.autoencoder import decoded, encoded
from rewardlab.policies.families.base import Inputs
from rewardlab.policies.families.stable_diffusion import StableDiffusion


class AnimateDiff(StableDiffusion):
    """AnimateDiff: videos whose frames pass the autoencoder one by one."""

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        count = self.call_default("num_frames") if frames is None else frames
        most = self.config.get("motion_max_seq_length") or count
        if not 1 <= count <= most:
            raise InputError(
                f"This AnimateDiffPipeline makes videos of 1 to {most} frames; got frames={count}."
            )
        height, width = self.latent_size(size, self.config.sample_size)
        return (self.config.in_channels, count, height, width)

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        text = inputs["encoder_hidden_states"].repeat_interleave(x.shape[2], 0)
        output: Tensor = denoiser(x, time, encoder_hidden_states=text, return_dict=False)[0]
        return output

    def decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        scaled = self._scale().to_autoencoder(latents)
        frames = decoded(self.vae, scaled.transpose(1, 2).flatten(0, 1), dtype)
        video: Tensor = frames.unflatten(0, (len(latents), -1))
        return video.transpose(1, 2)

    def encode_pixels(
        self, pixels: Tensor, row_generators: list[torch.Generator], dtype: torch.dtype
    ) -> Tensor:
        frames = pixels.transpose(1, 2).flatten(0, 1)
        frame_generators = []
        for generator in row_generators:
            frame_generators += [generator] * pixels.shape[2]
        latents = encoded(self.vae, frames, frame_generators, dtype)
        video = latents.unflatten(0, (len(pixels), -1)).transpose(1, 2)
        return self._scale().to_denoiser(video)
