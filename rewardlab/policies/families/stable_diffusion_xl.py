"""SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from rewardlab.policies.families.base import PLAIN, Family, Inputs
from rewardlab.policies.families.stable_diffusion import StableDiffusion

ADDED = ("text_embeds", "time_ids")  # inputs that the UNet takes in a dictionary of their own


class StableDiffusionXL(StableDiffusion):
    """SDXL: a UNet that reads the text's tokens, its pooled embedding and the picture's size."""

    reads: ClassVar[list[str]] = ["scaling_factor", "latents_mean", "latents_std"]
    needs: ClassVar[list[str]] = [*Family.needs, "text_encoder_2", "tokenizer_2"]

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return tokens, pooled embedding and size.

        The empty prompt is zeros where the pipeline's config says so.
        """
        pipeline = self.pipeline
        tokens, _, pooled, _ = pipeline.encode_prompt(list(prompts), device=device, **PLAIN)
        used = torch.ones(len(prompts), 1, device=device)
        if pipeline.config.get("force_zeros_for_empty_prompt"):
            flags = [[float(prompt != "")] for prompt in prompts]
            used = torch.tensor(flags, device=device)
        return {
            "encoder_hidden_states": tokens * used[..., None],
            "text_embeds": pooled * used,
            "time_ids": self._time_ids().to(device).expand(len(prompts), -1),
        }

    def _time_ids(self) -> Tensor:
        height, width = self.shape[1:]
        size = (height * self.factor, width * self.factor)
        projection = self.pipeline.text_encoder_2.config.projection_dim
        ids: Tensor = self.pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, projection)
        return ids

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        added = {name: inputs[name] for name in ADDED}
        output: Tensor = denoiser(
            x,
            timestep=time,
            encoder_hidden_states=inputs["encoder_hidden_states"],
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return output
