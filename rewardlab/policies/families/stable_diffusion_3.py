"""Stable Diffusion 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rewardlab.policies.families.base import PLAIN
from rewardlab.policies.families.flow import MMDIT, FlowFamily


class StableDiffusion3(FlowFamily):
    """SD3: a transformer with flow matching, which reads the text's tokens beside the picture's."""

    lora_layers: ClassVar[list[str]] = MMDIT
    reads: ClassVar[list[str]] = ["scaling_factor", "shift_factor"]

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return tokens and pooled embedding; each of the text encoders reads the same prompt."""
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), prompt_2=None, prompt_3=None, device=device, **PLAIN
        )
        return {"encoder_hidden_states": tokens, "pooled_projections": pooled}
