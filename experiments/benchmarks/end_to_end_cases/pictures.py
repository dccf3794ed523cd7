"""Jobs on pictures: epochs of a diffusion policy, scoring a folder, the best of n."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

from end_to_end_cases.measuring import Figures, measured

EIGHTH = 8  # of Stable Diffusion 1.5's widths
SIDE = 128  # of the pictures, in pixels
PAIRS = 8
CANDIDATES = 8


def diffusion_epoch(
    loop: Literal["SFT", "DPO"], kept: Literal["all", "prompts", "none"]
) -> Figures:
    """Measure an epoch, behind the first, of a low-rank adapter of Stable Diffusion in small.

    Args:
        loop: which of the two.
        kept: what is kept of the epochs before: latents and prompts, prompts, or nothing.
    """
    import pytorch_lightning as pl

    from rewardlab import DiffusionPolicy
    from rewardlab.policies.resources import Resources
    from rewardlab.training import DPO, SFT
    from rewardlab.training.trainers import SILENT

    settings = {
        "all": Resources(),
        "prompts": Resources(latents=0.0),
        "none": Resources(latents=0.0, prompts=0.0),
    }
    policy = DiffusionPolicy(_stable_diffusion(), lora_rank=4, resources=settings[kept])
    module = SFT(policy) if loop == "SFT" else DPO(policy, beta=100.0)

    def epoch() -> None:
        pl.Trainer(max_epochs=1, **SILENT).fit(module, _data(loop))

    return measured(epoch, 5)


def _data(loop: str) -> Any:
    """Return 8 pictures under 8 prompts, or 4 pairs, in batches of 8 pictures."""
    import torch

    from rewardlab import PreferencePairs, Samples
    from rewardlab.data import PairsData, SamplesData

    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(PAIRS, 3, SIDE, SIDE, generator=generator)
    prompts = [f"picture number {row}" for row in range(PAIRS)]
    samples = Samples(prompts, pictures)
    if loop == "SFT":
        return SamplesData(samples, batch_size=PAIRS)
    half = PAIRS // 2
    chosen = samples[:half]
    rejected = Samples(prompts[:half], pictures[half:])
    return PairsData(PreferencePairs(chosen, rejected), batch_size=half)


def _stable_diffusion() -> Any:
    """Return Stable Diffusion 1.5 with an eighth of its widths and random weights."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from rewardlab.testing.tiny_images import TEXT, byte_tokenizer, latent_scheduler

    torch.manual_seed(0)
    text = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 12}
    vae: Any = AutoencoderKL(
        block_out_channels=[width // EIGHTH for width in (128, 256, 512, 512)],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=[width // EIGHTH for width in (320, 640, 1280, 1280)],
        norm_num_groups=8,
        cross_attention_dim=96,
    )
    encoder = CLIPTextModel(CLIPTextConfig(**{**TEXT, **text, "num_attention_heads": 12}))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = byte_tokenizer(Path(folder))
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=latent_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def best_of_pictures(in_blocks: bool) -> Figures:
    """Measure the best of 8 pictures of 256x256 for each of 64 prompts, drawn 16 at once.

    The candidates are scored block by block (`in_blocks`), or when all are drawn.
    """
    import torch

    from rewardlab.mining import BestOf, running_best
    from rewardlab.policies import CallableGenerator
    from rewardlab.rewards import Brightness
    from rewardlab.seeds import row_seeds

    def drawn(prompts: list[str], seeds: torch.Tensor) -> torch.Tensor:
        levels = seeds.remainder(255).view(-1, 1, 1, 1) / 255
        return levels.float().expand(-1, 3, 256, 256).clone()

    running_best.BATCH = 64 if in_blocks else 2**20
    policy = CallableGenerator(drawn)
    policy.micro_batch = 16
    best = BestOf(policy, Brightness(), CANDIDATES)
    return measured(partial(best.generate, [""] * 64, seeds=row_seeds(0, 64)), 5)
