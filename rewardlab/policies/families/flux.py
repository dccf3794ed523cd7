"""FLUX.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rewardlab.policies.families.base import Inputs
from rewardlab.policies.families.flow import MMDIT, FlowFamily
from rewardlab.policies.families.packing import packed, unpacked


class Flux(FlowFamily):
    """FLUX.1: tokens of 2x2 squares; "dev" is told the guidance, "schnell" knows none.

    Guidance of a model that is not told of it is the true one, of two outputs.
    """

    lora_layers: ClassVar[list[str]] = MMDIT
    reads: ClassVar[list[str]] = ["scaling_factor", "shift_factor"]
    needs: ClassVar[list[str]] = [*FlowFamily.needs, "text_encoder_2", "tokenizer_2"]
    square: ClassVar[int | None] = 2
    largest_shift: ClassVar[float] = 1.15
    gives_noise_levels: ClassVar[bool] = True

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        self.refuse_frames(frames)
        default = self.pipeline.default_sample_size
        return (self.config.in_channels // 4, *self.latent_size(size, default, multiple=2))

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the tokens of T5 and the pooled embedding of CLIP."""
        tokens, pooled, _ = self.pipeline.encode_prompt(list(prompts), None, device=device)
        return {"encoder_hidden_states": tokens, "pooled_projections": pooled}

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        height, width = self.shape[1:]
        places = self.pipeline._prepare_latent_image_ids(
            len(x), height // 2, width // 2, x.device, x.dtype
        )
        text = inputs["encoder_hidden_states"]
        output = denoiser(
            hidden_states=packed(x),
            timestep=time / 1000,
            img_ids=places,
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype),
            **inputs,
            return_dict=False,
        )[0]
        return unpacked(output, height, width)
