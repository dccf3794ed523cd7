"""Pipelines of videos with small random networks of the real classes; nothing is downloaded.

Each function takes a folder, which its tokenizers are written to, and a seed of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rewardlab.testing.tiny_images import AUTOENCODER, TEXT, UNET, byte_tokenizer, latent_scheduler
from rewardlab.testing.tiny_pipelines import T5, shake


def tiny_animate_diff(folder: str | Path, seed: int = 0) -> Any:
    """Return an AnimateDiff: a Stable Diffusion with layers of motion, up to 8 frames."""
    from diffusers import AnimateDiffPipeline, AutoencoderKL, MotionAdapter, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextModel(CLIPTextConfig(**TEXT))
        vae: Any = AutoencoderKL(**AUTOENCODER)
        unet = UNet2DConditionModel(**UNET, cross_attention_dim=32)
        adapter: Any = MotionAdapter(
            block_out_channels=UNET["block_out_channels"],
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=8,
        )
        pipeline: Any = AnimateDiffPipeline(
            vae=vae.eval(),
            text_encoder=text.eval(),
            tokenizer=byte_tokenizer(folder),
            unet=unet,
            motion_adapter=adapter.eval(),
            scheduler=latent_scheduler(),
        )
    shake(pipeline.unet, seed)
    return pipeline


def tiny_wan(
    folder: str | Path, seed: int = 0, boundary: float | None = None, autoencoder: Any = None
) -> Any:
    """Return a Wan: an autoencoder that compresses 8 times a side and 4 times in time.

    It is of 2.1, or with a boundary of 2.2, with a second transformer for little noise. Another
    autoencoder may take the place of the random one.
    """
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = UMT5EncoderModel(UMT5Config(**T5))
        vae: Any = autoencoder or AutoencoderKLWan(
            base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1
        )
        channels = vae.config.z_dim
        transformers = [_wan_transformer(channels) for _ in range(1 if boundary is None else 2)]
    for number, transformer in enumerate(transformers):
        shake(transformer, seed + number)
    return WanPipeline(
        tokenizer=byte_tokenizer(folder, length=512),
        text_encoder=text.eval(),
        vae=vae.eval(),
        transformer=transformers[0],
        transformer_2=transformers[-1] if boundary is not None else None,
        boundary_ratio=boundary,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _wan_transformer(channels: int) -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )


def tiny_cog_video_x(folder: str | Path, seed: int = 0) -> Any:
    """Return a CogVideoX with rotary positions, of 9 frames by default."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = T5EncoderModel(T5Config(**T5))
        vae: Any = AutoencoderKLCogVideoX(**_COG_AUTOENCODER)
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=32,
            num_layers=1,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            use_rotary_positional_embeddings=True,
        )
    shake(transformer, seed)
    return CogVideoXPipeline(
        tokenizer=byte_tokenizer(folder, length=512),
        text_encoder=text.eval(),
        vae=vae.eval(),
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(
            rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"
        ),
    )


def tiny_ltx(folder: str | Path, seed: int = 0) -> Any:
    """Return an LTX-Video: an autoencoder that compresses 32 times a side and 8 times in time."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = T5EncoderModel(T5Config(**T5))
        vae: Any = AutoencoderKLLTXVideo(**_LTX_AUTOENCODER)
        transformer = LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=32,
        )
    shake(transformer, seed)
    tokenizer = byte_tokenizer(folder, length=512)
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=2.05, base_shift=0.95, shift_terminal=0.1
        ),
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        transformer=transformer,
    )


_COG_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 3,
    "up_block_types": ("CogVideoXUpBlock3D",) * 3,
    "block_out_channels": (8, 8, 8),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "temporal_compression_ratio": 4,
    "sample_height": 16,
    "sample_width": 16,
}
_LTX_AUTOENCODER: dict[str, Any] = {
    "latent_channels": 8,
    "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, True, False),
    "decoder_spatio_temporal_scaling": (True, True, True, False),
}
