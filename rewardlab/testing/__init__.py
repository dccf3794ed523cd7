"""Conformance classes for your own policies and rewards, and tiny models from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.testing.conformance import RewardConformance
    from rewardlab.testing.policy_conformance import PolicyConformance
    from rewardlab.testing.tiny_images import (
        tiny_diffusion,
        tiny_stable_diffusion,
        tiny_stable_diffusion_xl,
        tiny_tower,
    )
    from rewardlab.testing.tiny_latents import tiny_latent_generator
    from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

_HOMES = {
    "PolicyConformance": "rewardlab.testing.policy_conformance",
    "RewardConformance": "rewardlab.testing.conformance",
    "tiny_causal_lm": "rewardlab.testing.tiny_text",
    "tiny_diffusion": "rewardlab.testing.tiny_images",
    "tiny_latent_generator": "rewardlab.testing.tiny_latents",
    "tiny_stable_diffusion": "rewardlab.testing.tiny_images",
    "tiny_stable_diffusion_xl": "rewardlab.testing.tiny_images",
    "tiny_tokenizer": "rewardlab.testing.tiny_text",
    "tiny_tower": "rewardlab.testing.tiny_images",
}
__all__ = [
    "PolicyConformance",
    "RewardConformance",
    "tiny_causal_lm",
    "tiny_diffusion",
    "tiny_latent_generator",
    "tiny_stable_diffusion",
    "tiny_stable_diffusion_xl",
    "tiny_tokenizer",
    "tiny_tower",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
