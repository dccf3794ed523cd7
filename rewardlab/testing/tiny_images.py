"""Tiny models from a seed, for tests and examples; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def tiny_diffusion(
    seed: int = 0,
    classes: int = 2,
    prediction_type: str = "epsilon",
    flow: bool = False,
    channels: int = 1,
    size: int = 8,
    out_channels: int | None = None,
) -> Any:
    """Return a class-conditional diffusers pipeline with random weights.

    Args:
        seed: seed of the weights.
        classes: number of classes, beside a null class; 0 for an unconditional model.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        flow: whether the pipeline is of flow matching.
        channels: channels of the images.
        size: side of the images, in pixels.
        out_channels: channels of the network's output, twice `channels` for a learned variance; by
            default `channels`.

    Example:
        >>> tiny_diffusion(classes=10).unet.config.num_class_embeds
        11
    """
    from diffusers import DDIMScheduler, DDPMPipeline, FlowMatchEulerDiscreteScheduler, UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=out_channels or channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            num_class_embeds=classes + 1 if classes else None,
        )
    if flow:
        return DDPMPipeline(unet=unet, scheduler=FlowMatchEulerDiscreteScheduler())
    scheduler = DDIMScheduler(
        clip_sample=False, prediction_type=prediction_type, beta_schedule="squaredcos_cap_v2"
    )
    return DDPMPipeline(unet=unet, scheduler=scheduler)


def tiny_stable_diffusion(folder: str | Path, seed: int = 0) -> Any:
    """Return a StableDiffusionPipeline with random weights.

    Args:
        folder: folder that its tokenizer is written to.
        seed: seed of the weights.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextModel(CLIPTextConfig(**TEXT))
        vae: Any = AutoencoderKL(**AUTOENCODER)
        unet = UNet2DConditionModel(**UNET, cross_attention_dim=32)
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=byte_tokenizer(folder),
        unet=unet,
        scheduler=latent_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def latent_scheduler() -> Any:
    """Return the scheduler of Stable Diffusion."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        clip_sample=False,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
    )


def tiny_stable_diffusion_xl(folder: str | Path, seed: int = 0) -> Any:
    """Return an SDXL pipeline (two text encoders, size ids) with random weights.

    Args:
        folder: folder that its tokenizer is written to.
        seed: seed of the weights.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CLIPTextConfig(**TEXT, projection_dim=32)
        first = CLIPTextModel(config)
        second = CLIPTextModelWithProjection(config)
        vae: Any = AutoencoderKL(**AUTOENCODER)
        unet = UNet2DConditionModel(**UNET, **_SIZE_IDS, cross_attention_dim=64)
    tokenizer = byte_tokenizer(folder)
    return StableDiffusionXLPipeline(
        vae=vae.eval(),
        text_encoder=first.eval(),
        text_encoder_2=second.eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
        add_watermarker=False,
    )


TEXT: dict[str, Any] = {
    "vocab_size": 514,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}
AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 16,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
_SIZE_IDS: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}


def byte_tokenizer(folder: str | Path, length: int = 77) -> Any:
    """Return a CLIP tokenizer over single bytes: 256 symbols, the same at a word's end, two marks.

    It is made here, and written to `folder`. `length` is the most tokens that a text may have.
    """
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = list(bytes_to_unicode().values())
    final_symbols = [f"{symbol}</w>" for symbol in symbols]
    tokens = [*symbols, *final_symbols, "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(tokens)}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def tiny_tower(seed: int = 0, image_size: int = 16) -> nn.Module:
    """Return an open_clip model with random weights.

    It takes images in 4x4 patches and prompts of up to 16 tokens. It has two blocks of width 64 for
    images, and embeddings of width 32. The tokenizer is open_clip's own.

    Args:
        seed: seed of the weights.
        image_size: side of the images, in pixels.

    Example:
        >>> tiny_tower().encode_image(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 32])
    """
    from open_clip.model import CLIP

    vision = {
        "image_size": image_size,
        "patch_size": 4,
        "width": 64,
        "layers": 2,
        "head_width": 16,
    }
    text = {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        tower: nn.Module = CLIP(32, vision, text)
    return tower.eval()
