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
T5: dict[str, Any] = {
    "vocab_size": 514,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_heads": 4,
}
_LANGUAGE: dict[str, Any] = {
    "vocab_size": 514,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}
FLOW_TEXT: dict[str, Any] = {**TEXT, "projection_dim": 32}


def tiny_dit(folder: str | Path, seed: int = 0) -> Any:
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
    shake(transformer, seed)
    return DiTPipeline(transformer, vae.eval(), DDIMScheduler(clip_sample=False))


def tiny_stable_diffusion_3(folder: str | Path, seed: int = 0) -> Any:
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
    shake(transformer, seed)
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


def tiny_pixart(folder: str | Path, seed: int = 0, alpha: bool = False) -> Any:
    """Return a PixArt-Σ, or a PixArt-α of 1024 pixels; both predict their variance too."""
    from diffusers import (
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = T5EncoderModel(T5Config(**T5))
        vae: Any = AutoencoderKL(**AUTOENCODER)
        transformer = PixArtTransformer2DModel(
            **_PIXART, sample_size=128 if alpha else 8, use_additional_conditions=alpha
        )
    shake(transformer, seed)
    kind = PixArtAlphaPipeline if alpha else PixArtSigmaPipeline
    return kind(
        tokenizer=byte_tokenizer(folder, length=2048),
        text_encoder=text.eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def tiny_sana(folder: str | Path, seed: int = 0) -> Any:
    """Return a Sana, whose autoencoder compresses 4 times a side."""
    from diffusers import (
        AutoencoderDC,
        FlowMatchEulerDiscreteScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )
    from transformers import Gemma2Config, Gemma2Model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = Gemma2Model(Gemma2Config(**_LANGUAGE))
        vae: Any = AutoencoderDC(**_SANA_AUTOENCODER)
        transformer = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=32,
            sample_size=8,
        )
    shake(transformer, seed)
    return SanaPipeline(
        tokenizer=byte_tokenizer(folder, length=2048),
        text_encoder=text.eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def tiny_flux(folder: str | Path, seed: int = 0, told_guidance: bool = True) -> Any:
    """Return a FLUX.1: "dev", which is told the guidance, or "schnell"."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = CLIPTextModel(CLIPTextConfig(**TEXT))
        second = T5EncoderModel(T5Config(**T5))
        vae: Any = AutoencoderKL(**AUTOENCODER, shift_factor=0.1)
        transformer = FluxTransformer2DModel(**_FLUX, guidance_embeds=told_guidance)
    shake(transformer, seed)
    tokenizer = byte_tokenizer(folder)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=told_guidance),
        vae=vae.eval(),
        text_encoder=first.eval(),
        tokenizer=tokenizer,
        text_encoder_2=second.eval(),
        tokenizer_2=byte_tokenizer(folder, length=512),
        transformer=transformer,
    )


def tiny_qwen_image(folder: str | Path, seed: int = 0) -> Any:
    """Return a Qwen-Image, whose autoencoder compresses 8 times a side."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**_VISION_LANGUAGE))
        vae: Any = AutoencoderKLQwenImage(
            base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1
        )
        transformer = QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
        )
    shake(transformer, seed)
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02
        ),
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=byte_tokenizer(folder, length=2048),
        transformer=transformer,
    )


def tiny_z_image(folder: str | Path, seed: int = 0) -> Any:
    """Return a Z-Image, of one stream."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3Model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = Qwen3Model(Qwen3Config(**_LANGUAGE))
        vae: Any = AutoencoderKL(**AUTOENCODER, shift_factor=0.1)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 4, 8],
            axes_lens=[1024, 64, 64],
        )
    shake(transformer, seed)
    tokenizer = byte_tokenizer(folder, length=2048)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        transformer=transformer,
    )


_PIXART: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 1,
    "cross_attention_dim": 48,
    "caption_channels": 32,
}
_FLUX: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}
_SANA_AUTOENCODER: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": ("ResBlock", "ResBlock", "ResBlock"),
    "decoder_block_types": ("ResBlock", "ResBlock", "ResBlock"),
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "encoder_qkv_multiscales": ((), (), ()),
    "decoder_qkv_multiscales": ((), (), ()),
    "scaling_factor": 0.4,
}
_VISION_LANGUAGE: dict[str, Any] = {
    "text_config": {
        **_LANGUAGE,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    },
    "vision_config": {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
    },
    "vision_start_token_id": 500,
    "vision_end_token_id": 501,
    "vision_token_id": 502,
    "image_token_id": 503,
    "video_token_id": 504,
}


def shake(network: Any, seed: int) -> None:
    """Give layers that start as zeros, or as nothing at all, weights from the seed.

    So every input shows in the output.
    """
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("pad_token") or not parameter.data.any():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.1 * noise)
