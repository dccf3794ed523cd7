"""Z-Image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from rewardlab.policies.families.base import Inputs
from rewardlab.policies.families.flow import FlowFamily

SIZE = 1024  # in pixels, the pipeline's own
TOKENS = 512  # of a prompt, the pipeline's own limit


class ZImage(FlowFamily):
    """Z-Image: one stream of text and picture; time runs from 0 (noise) to 1.

    Diffusers counts its guidance from 0 (none); here, as everywhere, 1 is none.
    """

    reads: ClassVar[list[str]] = ["scaling_factor", "shift_factor"]
    square: ClassVar[int | None] = 2
    largest_shift: ClassVar[float] = 1.15
    gives_noise_levels: ClassVar[bool] = True

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        self.refuse_frames(frames)
        default = SIZE // self.factor
        return (self.config.in_channels, *self.latent_size(size, default, multiple=2))

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the text's states, filled up to one length, and how many are no filling."""
        rows, _ = self.pipeline.encode_prompt(
            list(prompts), device=device, do_classifier_free_guidance=False
        )
        states = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return {"states": pad(states, (0, 0, 0, TOKENS - states.shape[1])), "lengths": lengths}

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        lengths = [self.planned_tokens] * len(x)
        if self.planned_tokens is None:
            lengths = inputs["lengths"].tolist()
        texts = []
        for states, length in zip(inputs["states"], lengths, strict=True):
            texts.append(states[:length])
        pictures = list(x[:, :, None])
        outputs = denoiser(pictures, (1000 - time) / 1000, texts, return_dict=False)[0]
        return -torch.stack(outputs)[:, :, 0]
