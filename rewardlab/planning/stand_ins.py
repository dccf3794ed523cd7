"""Stand-ins for what text encoders give a denoiser: right in shape, empty of meaning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.families.base import Family

CLIP_TOKENS = 77
QWEN_TOKENS = 512
_TOKENS = {
    "StableDiffusion": CLIP_TOKENS,
    "StableDiffusionXL": CLIP_TOKENS,
    "StableDiffusion3": CLIP_TOKENS + 256,
    "Flux": 512,
    "QwenImage": QWEN_TOKENS,
    "Wan": 512,
    "PixArt": 300,
    "Sana": 300,
    "ZImage": 512,
    "AnimateDiff": CLIP_TOKENS,
    "CogVideoX": 226,
    "LTX": 128,
}
_WIDTHS = {
    "StableDiffusion": "cross_attention_dim",
    "StableDiffusionXL": "cross_attention_dim",
    "Wan": "text_dim",
    "PixArt": "caption_channels",
    "Sana": "caption_channels",
    "ZImage": "cap_feat_dim",
    "AnimateDiff": "cross_attention_dim",
    "CogVideoX": "text_embed_dim",
    "LTX": "caption_channels",
}


def stand_in(family: Family, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the denoiser's inputs of `rows` prompts of the largest length.

    Raises:
        InputError: if the family's inputs are not written down here.
    """
    name = type(family).__name__
    config = family.config
    if name == "Classes":
        if config.get("num_class_embeds") or config.get("num_embeds_ada_norm"):
            return {"class_labels": torch.zeros(rows, dtype=torch.long)}
        return {}
    if name not in _TOKENS:
        raise InputError(
            f"The plan does not know what the text encoders of a "
            f"{type(family.pipeline).__name__} give its denoiser; it knows "
            f"{', '.join(_TOKENS)}."
        )
    tokens = _TOKENS[name]
    width = _width(name, config)
    states = torch.zeros(rows, tokens, width, dtype=dtype)
    if name == "ZImage":
        family.planned_tokens = tokens
        return {"states": states, "lengths": torch.full((rows,), tokens)}
    inputs = {"encoder_hidden_states": states}
    return inputs | _further(family, name, rows, tokens, dtype)


def _width(name: str, config: Any) -> int:
    return int(config.get(_WIDTHS.get(name, "joint_attention_dim")))


def _further(
    family: Family, name: str, rows: int, tokens: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the inputs beside the tokens."""
    config = family.config
    inputs: dict[str, Tensor] = {}
    if name in ("StableDiffusion3", "Flux"):
        pooled = config.get("pooled_projection_dim")
        inputs["pooled_projections"] = torch.zeros(rows, pooled, dtype=dtype)
    if name == "StableDiffusionXL":
        time = 6 * config.get("addition_time_embed_dim")
        pooled = config.get("projection_class_embeddings_input_dim") - time
        inputs["text_embeds"] = torch.zeros(rows, pooled, dtype=dtype)
        inputs["time_ids"] = torch.zeros(rows, 6)
    if name in ("PixArt", "Sana", "LTX"):
        inputs["encoder_attention_mask"] = torch.ones(rows, tokens, dtype=torch.long)
    if name == "QwenImage":
        family.planned_tokens = tokens
        inputs["encoder_hidden_states_mask"] = torch.ones(rows, tokens, dtype=torch.long)
    if family.is_told_guidance:
        inputs["guidance"] = torch.ones(rows)
    return inputs
