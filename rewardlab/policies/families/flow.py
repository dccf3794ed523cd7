"""Flow matching at several sizes: the time shift that grows with the number of tokens."""

from __future__ import annotations

import math
from inspect import signature
from typing import Any, ClassVar

import torch

from rewardlab.policies.families.base import Family

# layers of transformers that text and picture pass in streams of their own
MMDIT = [
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "add_k_proj",
    "add_q_proj",
    "add_v_proj",
    "to_add_out",
]


class FlowFamily(Family):
    """A family whose schedulers may shift the time by the number of the picture's tokens.

    Attributes:
        square: side of the square of latents that is a token; None for the config's patch_size.
        largest_shift: the shift's exponent for the most tokens, unless the scheduler names one.
        gives_noise_levels: whether the pipeline hands the scheduler equally spaced noise levels
            from 1 to 1/steps.
    """

    square: ClassVar[int | None] = None
    largest_shift: ClassVar[float] = 1.16
    gives_noise_levels: ClassVar[bool] = False

    def tokens(self) -> int:
        """Return the number of tokens that a picture is cut into."""
        side: int = self.square or self.config.get("patch_size") or 1
        height, width = self.shape[-2:]
        return (height // side) * (width // side)

    def step_options(self, scheduler: Any, steps: int) -> dict[str, Any]:
        """Return the exponent of the time shift, and the noise levels where the pipeline does."""
        accepted = signature(scheduler.set_timesteps).parameters
        options: dict[str, Any] = {}
        if scheduler.config.get("use_dynamic_shifting") and "mu" in accepted:
            options["mu"] = self._exponent(scheduler)
        own_levels = scheduler.config.get("use_flow_sigmas")
        if self.gives_noise_levels and "sigmas" in accepted and not own_levels:
            levels = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64)
            options["sigmas"] = levels.numpy()
        return options

    def shift(self, scheduler: Any) -> float | None:
        if not scheduler.config.get("use_dynamic_shifting"):
            return None
        exponent = self._exponent(scheduler)
        if scheduler.config.get("time_shift_type") == "linear":
            return exponent
        return math.exp(exponent)

    def _exponent(self, scheduler: Any) -> float:
        """Return the shift's exponent, linear in the number of tokens (diffusers' `mu`)."""
        config = scheduler.config
        fewest: int = config.get("base_image_seq_len", 256)
        most: int = config.get("max_image_seq_len", 4096)
        smallest: float = config.get("base_shift", 0.5)
        largest: float = config.get("max_shift", self.largest_shift)
        slope = (largest - smallest) / (most - fewest)
        return self.tokens() * slope + smallest - slope * fewest
