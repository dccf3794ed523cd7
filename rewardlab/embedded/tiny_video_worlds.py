"""Tiny worlds of videos from seeds: clips of any grey by pipelines of real classes; bright wanted.

Denoisers, and the autoencoder of AnimateDiff, are fitted in seconds, so that each loop can be
tried. Wan's autoencoder is set by hand: a random one inverts nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

from rewardlab.data.targets import TargetSamples
from rewardlab.embedded.cache import cached
from rewardlab.embedded.tiny_worlds import PROMPTS, image_reward, train_policy
from rewardlab.evaluation.prompts import in_turn
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards.framewise import Framewise, Pooling
from rewardlab.seeds import derive
from rewardlab.testing.tiny_videos import tiny_animate_diff, tiny_wan
from rewardlab.testing.wan_autoencoder import averaging_wan_autoencoder
from rewardlab.types import Samples

FRAMES = 3
"""Frames of a clip of AnimateDiff's."""

WAN_FRAMES = 5
"""Frames of a clip of Wan's: one, and then four that its autoencoder takes together."""

SIDE = 8
"""Height and width of a clip, in pixels."""

AUTOENCODER_STEPS = 250

__all__ = [
    "FRAMES",
    "SIDE",
    "WAN_FRAMES",
    "bright_clips",
    "clips",
    "video_policy",
    "video_reward",
    "wan_policy",
]


def clips(count: int, darkest: float, brightest: float, seed: int, frames: int = FRAMES) -> Samples:
    """Return videos [count, frames, 3, 8, 8], each of one grey with a little noise.

    Prompts are in turn.

    Example:
        >>> clips(2, 0.5, 0.5, seed=0).outputs.shape
        torch.Size([2, 3, 3, 8, 8])
    """
    generator = torch.Generator().manual_seed(derive(seed, "clips"))
    greys = darkest + (brightest - darkest) * torch.rand(count, 1, 1, 1, 1, generator=generator)
    noise = 0.05 * torch.randn(count, frames, 3, SIDE, SIDE, generator=generator)
    return Samples(in_turn(PROMPTS, count), (greys + noise).clamp(0, 1))


def bright_clips(
    count: int = 48,
    held_out: int = 16,
    batch_size: int = 32,
    seed: int = 0,
    frames: int = FRAMES,
) -> TargetSamples:
    """Return bright clips as GAN-RM's targets.

    They pass the generator's autoencoder, so that the reward does not learn its signature.

    Args:
        count: number of clips.
        held_out: number of clips that are held out.
        batch_size: samples a step.
        seed: seed of the clips.
        frames: frames of a clip.
    """
    targets = clips(count, 0.5, 0.9, derive(seed, "targets"), frames)
    return TargetSamples(targets, held_out=held_out, batch_size=batch_size, reconstruct=True)


def video_reward(heads: int = 1, pooling: Pooling = "min", seed: int = 0) -> Framewise:
    """Return a reward of frames on a frozen tower with random weights, pooled over frames.

    Args:
        heads: number of heads.
        pooling: how frames are pooled, "mean" or "min".
        seed: seed of tower and heads.
    """
    return Framewise(image_reward(heads, seed), pooling)


def video_policy(train_steps: int = 50, steps: int = 3, seed: int = 0) -> DiffusionPolicy:
    """Return an AnimateDiff of clips of any grey, its autoencoder and denoiser fitted to them.

    It is fitted once and kept in the cache of the embedded worlds.

    Args:
        train_steps: optimizer steps of 32 clips.
        steps: denoising steps of a sample.
        seed: seed of weights, data and noise.
    """
    return _policy("tiny-animate-diff", _animate_diff, FRAMES, train_steps, steps, seed)


def wan_policy(train_steps: int = 50, steps: int = 3, seed: int = 0) -> DiffusionPolicy:
    """Return a Wan of clips of any grey, its transformer fitted to them.

    It is fitted once and kept in the cache of the embedded worlds.

    Args:
        train_steps: optimizer steps of 32 clips.
        steps: denoising steps of a sample.
        seed: seed of weights, data and noise.
    """
    return _policy("tiny-wan", _wan, WAN_FRAMES, train_steps, steps, seed)


def _policy(
    name: str,
    make: Callable[[Path, int], Any],
    frames: int,
    train_steps: int,
    steps: int,
    seed: int,
) -> DiffusionPolicy:
    """Return a policy whose pipeline was fitted to clips of any grey, from the cache.

    Args:
        name: of the pipeline in the cache.
        make: makes the pipeline from a folder for its tokenizer and a seed; its denoiser is random.
        frames: frames of a clip.
        train_steps: optimizer steps of 32 clips.
        steps: denoising steps of a sample.
        seed: seed of weights, data and noise.
    """

    def fit(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as tokenizer:
            pipeline = make(Path(tokenizer), seed)
        policy = DiffusionPolicy(pipeline, size=SIDE, frames=frames)
        data = clips(32 * max(train_steps, 1), 0.2, 0.8, seed, frames)
        train_policy(policy, data, train_steps, seed)
        policy.pipeline.save_pretrained(folder / "pipeline")

    settings = {"train_steps": train_steps, "seed": seed, "frames": frames, "side": SIDE}
    folder = cached(name, settings, ["torch", "diffusers", "transformers"], fit)
    sampler = Sampler(steps=steps)
    return DiffusionPolicy(folder / "pipeline", sampler=sampler, size=SIDE, frames=frames)


def _animate_diff(tokenizer: Path, seed: int) -> Any:
    """Return an AnimateDiff whose autoencoder is fitted to greys."""
    from diffusers import DDIMScheduler

    pipeline = tiny_animate_diff(tokenizer, seed)
    fit_autoencoder(pipeline.vae, AUTOENCODER_STEPS, seed)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", prediction_type="sample"
    )
    return pipeline


def _wan(tokenizer: Path, seed: int) -> Any:
    """Return a Wan whose autoencoder averages."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline = tiny_wan(tokenizer, seed, autoencoder=averaging_wan_autoencoder())
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()  # few steps, spread evenly
    return pipeline


def fit_autoencoder(vae: Any, steps: int, seed: int) -> None:
    """Fit an autoencoder of images to squares of one grey."""
    vae.requires_grad_(True)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    generator = torch.Generator().manual_seed(derive(seed, "autoencoder"))
    for _ in range(steps):
        greys = 0.1 + 0.8 * torch.rand(16, 1, 1, 1, generator=generator)
        pixels = 2 * greys.expand(-1, 3, SIDE, SIDE) - 1
        latents = vae.encode(pixels).latent_dist.mean
        noise = torch.randn(latents.shape, generator=generator)
        loss = mse_loss(vae.decode(latents + 0.1 * noise).sample, pixels)
        loss = loss + 1e-3 * latents.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    vae.requires_grad_(False)
