"""Pipelines of the families that people use, with small random networks of the real classes.

Nothing is downloaded. Each function takes a folder, which its tokenizers are written to, and a
seed of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rewardlab.testing.tiny_images import AUTOENCODER, TEXT, byte_tokenizer

_SD3: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 8,
}
FLOW_TEXT: dict[str, Any] = {**TEXT, "projection_dim": 32}


def tiny_dit(folder: Path, seed: int = 0) -> Any:
    """Return a DiT of ten classes and a null class, which predicts its variance too."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = DiTTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_embeds_ada_norm=10,
        )
        vae: Any = AutoencoderKL(**AUTOENCODER)
    _shake(transformer, seed)
    return DiTPipeline(transformer, vae.eval(), DDIMScheduler(clip_sample=False))


def tiny_stable_diffusion_3(folder: Path, seed: int = 0) -> Any:
    """Return an SD3 without T5."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextConfig(**FLOW_TEXT)
        encoders = [CLIPTextModelWithProjection(text).eval() for _ in range(2)]
        transformer = SD3Transformer2DModel(**_SD3)
        vae: Any = AutoencoderKL(**AUTOENCODER, shift_factor=0.06)
    _shake(transformer, seed)
    tokenizer = byte_tokenizer(folder)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _shake(network: Any, seed: int) -> None:
    """Give layers that start as zeros some weights, so that every input shows in the output."""
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.data.any():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.1 * noise)
