"""Qwen-Image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rewardlab.policies.autoencoder import decoded, encoded
from rewardlab.policies.families.base import Inputs
from rewardlab.policies.families.flow import FlowFamily
from rewardlab.policies.families.flux import Flux
from rewardlab.policies.families.packing import packed, unpacked

TOKENS = 512  # of a prompt, the pipeline's own limit


class QwenImage(Flux):
    """Qwen-Image: FLUX's tokens, a language model's text, and an autoencoder of videos."""

    reads: ClassVar[list[str]] = ["latents_mean", "latents_std"]
    needs: ClassVar[list[str]] = FlowFamily.needs

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the text's states, filled up to one length, and the mask of no filling."""
        states, mask = self.pipeline.encode_prompt(
            list(prompts), device=device, max_sequence_length=TOKENS
        )
        if mask is None:
            mask = states.new_ones(states.shape[:2], dtype=torch.long)
        missing = TOKENS - states.shape[1]
        return {
            "encoder_hidden_states": pad(states, (0, 0, 0, missing)),
            "encoder_hidden_states_mask": pad(mask, (0, missing)),
        }

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        height, width = self.shape[1:]
        mask = inputs["encoder_hidden_states_mask"]
        longest = self.planned_tokens or int(mask.sum(1).max())
        states = inputs["encoder_hidden_states"][:, :longest]
        output = denoiser(
            hidden_states=packed(x),
            timestep=time / 1000,
            guidance=inputs.get("guidance"),
            encoder_hidden_states=states,
            encoder_hidden_states_mask=mask[:, :longest],
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpacked(output, height, width)

    def guided(self, cond: Tensor, uncond: Tensor, guidance: float | Tensor) -> Tensor:
        """Return the guided output, each token as long as with the prompt alone."""
        height, width = self.shape[1:]
        cond_tokens = packed(cond)
        tokens = packed(super().guided(cond, uncond, guidance))
        length = cond_tokens.norm(dim=-1, keepdim=True)
        tokens = tokens * (length / tokens.norm(dim=-1, keepdim=True))
        return unpacked(tokens, height, width)

    def decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        scaled = self._scale().to_autoencoder(latents)
        return decoded(self.vae, scaled[:, :, None], dtype)[:, :, 0]

    def encode_pixels(
        self, pixels: Tensor, row_generators: list[torch.Generator], dtype: torch.dtype
    ) -> Tensor:
        latents = encoded(self.vae, pixels[:, :, None], row_generators, dtype)
        return self._scale().to_denoiser(latents[:, :, 0])
