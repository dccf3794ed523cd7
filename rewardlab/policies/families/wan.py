"""Wan: videos from texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.components import boundary_of
from rewardlab.policies.families.flow import FlowFamily
from rewardlab.policies.noising import over_dimensions
from rewardlab.policies.samplers import Sampler

SIZE = (480, 832)  # in pixels, the pipeline's own


class Wan(FlowFamily):
    """Wan 2.1 and 2.2: one transformer, or one for times of much noise and one for the others."""

    reads: ClassVar[list[str]] = ["latents_mean", "latents_std"]

    def __init__(self, pipeline: Any, size: Any = None, frames: int | None = None) -> None:
        _check_transformers(pipeline)
        if pipeline.config.get("expand_timesteps"):
            raise InputError(
                "This Wan gives each token a time of its own (expand_timesteps), which "
                "DiffusionPolicy does not do. Take a model for text to video, such as 2.1."
            )
        super().__init__(pipeline, size, frames)

    @property
    def factor(self) -> int:
        return int(self.pipeline.vae_scale_factor_spatial)

    @property
    def frame_factor(self) -> int:
        return int(self.pipeline.vae_scale_factor_temporal)

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        count = self.latent_frames(frames, self.call_default("num_frames"), self.frame_factor)
        patch = self.config.patch_size[1]
        height, width = self.latent_size(size or SIZE, None, multiple=patch)
        return (self.config.in_channels, count, height, width)

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the states of the text, with zeros behind its end."""
        states, _ = self.encoded_prompts(prompts, device)
        return {"encoder_hidden_states": states}

    def guidance_at(self, sampler: Sampler, time: Tensor) -> float | Tensor:
        """Return the guidance at times [N]: the late steps' own from the boundary down."""
        late = sampler.late_guidance
        boundary = boundary_of(self.pipeline)
        if late is None or boundary is None:
            return super().guidance_at(sampler, time)
        if sampler.guidance == 1 != late:
            raise InputError(
                f"late_guidance={late} with guidance=1: Wan's own call guides no step where the "
                "early ones are not guided. Set guidance above 1, or leave late_guidance out."
            )
        scales = time.new_full(time.shape, late).where(time < boundary, sampler.guidance)
        return over_dimensions(scales, len(self.shape))


def _check_transformers(pipeline: Any) -> None:
    """Refuse a pipeline whose transformers are not those that its boundary_ratio speaks of."""
    names = ("transformer", "transformer_2")
    count = sum(getattr(pipeline, name, None) is not None for name in names)
    ratio = pipeline.config.get("boundary_ratio")
    if (count == 2) != (ratio is not None):
        raise InputError(
            "Two transformers share the time at the boundary_ratio (0.875 in Wan 2.2), and one "
            f"has none; this {type(pipeline).__name__} has {count} and boundary_ratio={ratio}. "
            "Was a part left out, or the boundary? Load the whole folder."
        )
