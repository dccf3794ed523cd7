"""Sana."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rewardlab.policies.families.base import Inputs
from rewardlab.policies.families.flow import FlowFamily


class Sana(FlowFamily):
    """Sana: linear attention on an autoencoder that compresses 32 times a side."""

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the states of Gemma and their mask.

        The pipeline's own instruction stands before a prompt, and not before a negative one.
        """
        instruction = None if negative else self.call_default("complex_human_instruction")
        states, mask, _, _ = self.encoded_prompts(
            prompts, device, complex_human_instruction=instruction
        )
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        scaled = time * self.config.timestep_scale
        output: Tensor = denoiser(x, timestep=scaled, **inputs, return_dict=False)[0]
        return output
