"""LTX-Video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rewardlab.policies.autoencoder import LatentScale, decoded
from rewardlab.policies.families.base import Inputs
from rewardlab.policies.families.flow import FlowFamily

SIZE = (512, 704)  # in pixels, the pipeline's own


class LTX(FlowFamily):
    """LTX-Video: each latent is a token; positions are in seconds and pixels."""

    largest_shift: ClassVar[float] = 1.15
    gives_noise_levels: ClassVar[bool] = True

    @property
    def factor(self) -> int:
        return int(self.pipeline.vae_spatial_compression_ratio)

    @property
    def frame_factor(self) -> int:
        return int(self.pipeline.vae_temporal_compression_ratio)

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        count = self.latent_frames(frames, self.call_default("num_frames"), self.frame_factor)
        height, width = self.latent_size(size or SIZE, None)
        return (self.config.in_channels, count, height, width)

    def tokens(self) -> int:
        _, frames, height, width = self.shape
        return frames * height * width

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the states of T5 and their mask."""
        states, mask, _, _ = self.encoded_prompts(prompts, device)
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        _, frames, height, width = self.shape
        seconds = self.frame_factor / self.call_default("frame_rate")
        output = denoiser(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=time,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(seconds, self.factor, self.factor),
            **inputs,
            return_dict=False,
        )[0]
        video: Tensor = output.transpose(1, 2).unflatten(2, (frames, height, width))
        return video

    def decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        """Return pixels; a decoder that denoises is told that nothing is left to do."""
        scaled = self._scale().to_autoencoder(latents)
        options = {}
        if self.vae.config.timestep_conditioning:
            options["temb"] = scaled.new_zeros(len(scaled))
        return decoded(self.vae, scaled, dtype, **options)

    def _scale(self) -> LatentScale:
        """Return the scale, from numbers that the autoencoder keeps beside its weights."""
        mean = self.vae.latents_mean.double()[:, None, None, None]
        deviation = self.vae.latents_std.double()[:, None, None, None]
        return LatentScale(deviation / self.vae.config.scaling_factor, mean)
