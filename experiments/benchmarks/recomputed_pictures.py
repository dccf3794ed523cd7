"""What `gradient_checkpointing` spares of a picture's way: a tower's blocks, and an autoencoder's decoding.

    OMP_NUM_THREADS=1 python experiments/benchmarks/recomputed_pictures.py

Networks of real size with random weights, on the CPU: open_clip's ViT-B-16 for 224 pixels, and the autoencoder of Stable
Diffusion 1.5 for 256. Printed are the peak of a forward and a backward pass, which torch's profiler counts beside what was
there, its seconds, and the largest difference of the gradients, with and without.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import open_clip
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from rewardlab import Samples, VisionReward
from rewardlab.planning import measured_peak
from rewardlab.policies.autoencoder import checkpoint_activations, decoded

GIB = 2**30
TOWER = "ViT-B-16"
PICTURES = 4
LATENTS = 32  # a side, of 256 pixels
BLOCKS = (128, 256, 512, 512)  # of Stable Diffusion's autoencoder


class Measured(NamedTuple):
    """The cost of a step, and its gradients."""

    peak: int
    seconds: float
    gradients: list[Tensor]


def frozen_tower(recomputes: bool) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return ReFL's or an attack's step through a tower, and what its gradient is of."""
    reward = vision_reward(recomputes)
    pixels = torch.rand(PICTURES, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pixels.requires_grad_()
    samples = Samples([""] * PICTURES, pixels)
    return lambda: reward(samples).sum().backward(), [pixels]


def trained_tower(recomputes: bool) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return the step of a fit of a tower's blocks, and what its gradient is of."""
    reward = vision_reward(recomputes, unlocked_groups=13)
    pixels = torch.rand(PICTURES, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    features = reward.features(Samples([""] * PICTURES, pixels))
    weights = [weight for weight in reward.parameters() if weight.requires_grad]
    return lambda: reward.score_features(features).sum().backward(), weights


def vision_reward(recomputes: bool, **options: Any) -> VisionReward:
    """Return a reward with random weights."""
    torch.manual_seed(0)
    tower: nn.Module = open_clip.create_model(TOWER)
    return VisionReward(tower, gradient_checkpointing=recomputes, **options)


def decoder(recomputes: bool) -> tuple[Callable[[], Any], list[Tensor]]:
    """Return ReFL's step through the autoencoder alone, and what its gradient is of."""
    torch.manual_seed(0)
    sides = {"down": ["DownEncoderBlock2D"] * 4, "up": ["UpDecoderBlock2D"] * 4}
    vae = AutoencoderKL(
        down_block_types=sides["down"],
        up_block_types=sides["up"],
        block_out_channels=BLOCKS,
        layers_per_block=2,
        latent_channels=4,
    )
    vae.requires_grad_(False).eval()
    if recomputes:
        checkpoint_activations(vae)
    latents = torch.randn(1, 4, LATENTS, LATENTS, requires_grad=True)
    return lambda: decoded(vae, latents, torch.float32).sum().backward(), [latents]


def measured(step: Callable[[], Any], leaves: list[Tensor]) -> Measured:
    """Return what a step costs whose gradients have their place already."""
    step()
    for leaf in leaves:
        assert leaf.grad is not None
        leaf.grad.zero_()
    start = time.perf_counter()
    peak = measured_peak(step)
    seconds = time.perf_counter() - start
    return Measured(peak, seconds, [leaf.grad.clone() for leaf in leaves if leaf.grad is not None])


def line(name: str) -> str:
    """Return what a case costs without and with activations that are computed anew."""
    kept = measured(*CASES[name](False))
    recomputed = measured(*CASES[name](True))
    pairs = zip(kept.gradients, recomputed.gradients, strict=True)
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    return (
        f"{name}: {kept.peak / GIB:.2f} GiB and {recomputed.peak / GIB:.2f}, "
        f"{kept.peak / recomputed.peak:.1f} times less, in {kept.seconds:.1f} s and "
        f"{recomputed.seconds:.1f}; gradients differ by {difference:.1g}"
    )


CASES = {
    "a gradient to the pictures through a frozen tower": frozen_tower,
    "a step of a tower whose 12 blocks are trained": trained_tower,
    "a gradient to the latents through the decoder": decoder,
}


def main() -> None:
    """Print each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    for name in CASES:
        print(line(name), flush=True)


if __name__ == "__main__":
    main()
