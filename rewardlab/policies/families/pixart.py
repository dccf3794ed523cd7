"""PixArt-α and PixArt-Σ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.policies.families.base import Family, Inputs


class PixArt(Family):
    """PixArt: a transformer that reads T5 by cross attention, and predicts its variance too."""

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the states of T5 and their mask."""
        states, mask, _, _ = self.encoded_prompts(prompts, device, clean_caption=self._cleans())
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        output: Tensor = denoiser(
            x,
            timestep=time,
            **inputs,
            added_cond_kwargs=self._size(len(x), x.device),
            return_dict=False,
        )[0]
        return output

    def _size(self, rows: int, device: torch.device) -> dict[str, Any]:
        """Return the size that PixArt-α is told at 1024 pixels, and no other model."""
        is_alpha = "Alpha" in type(self.pipeline).__name__
        if not is_alpha or self.config.sample_size != 128:
            return {"resolution": None, "aspect_ratio": None}
        height, width = self.shape[1:]
        pixels = [height * self.factor, width * self.factor]
        resolution = torch.tensor([pixels], dtype=torch.float32, device=device)
        ratio = torch.tensor([[height / width]], dtype=torch.float32, device=device)
        return {
            "resolution": resolution.expand(rows, -1),
            "aspect_ratio": ratio.expand(rows, -1),
        }

    def _cleans(self) -> bool:
        """Tell whether the pipeline cleans captions: it does where these packages are there."""
        from diffusers.utils.import_utils import is_bs4_available, is_ftfy_available

        return bool(is_bs4_available() and is_ftfy_available())
