"""Stable Diffusion 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.families.base import PLAIN, Family
from rewardlab.policies.families.flow import MMDIT, FlowFamily


class StableDiffusion3(FlowFamily):
    """SD3: a transformer with flow matching, which reads the text's tokens beside the picture's."""

    lora_layers: ClassVar[list[str]] = MMDIT
    reads: ClassVar[list[str]] = ["scaling_factor", "shift_factor"]
    needs: ClassVar[list[str]] = [*Family.needs, "text_encoder_2", "tokenizer_2"]

    def latent_size(self, size: Any, default: Any, multiple: int = 1) -> tuple[int, int]:
        """Return height and width of the latents; the positions have a largest side."""
        patch = self.config.patch_size
        height, width = super().latent_size(size, default, multiple=patch)
        largest = self.config.pos_embed_max_size
        if max(height, width) > largest * patch:
            raise InputError(
                f"This {type(self.pipeline).__name__} makes pictures of at most "
                f"{largest * patch * self.factor} pixels a side; got size {size}."
            )
        return height, width

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return tokens and pooled embedding; each of the text encoders reads the same prompt."""
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), prompt_2=None, prompt_3=None, device=device, **PLAIN
        )
        return {"encoder_hidden_states": tokens, "pooled_projections": pooled}
