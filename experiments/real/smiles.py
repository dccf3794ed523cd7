"""The world "smiles": faces that the expression net finds happy are wanted.

The generator's own faces are the targets, so nothing but the expression tells them from negatives.
The expression net is asked once, to choose them; after that it is the judge, which no training
sees. The witness is GAN-RM's reward anew: on another family of tower, with targets and negatives of
other seeds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from real.expression import Expression
from real.faces import face_policy
from real.towers import tower
from rewardlab.data import TargetSamples
from rewardlab.embedded.cache import cached
from rewardlab.rewards import VisionReward
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage import load_samples, save_samples
from rewardlab.training import GANRM
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples

PACKAGES = ("torch", "rewardlab")
WITNESS_SIDE = 96  # pixels that the witness's tower sees
WITNESS_SEED = 1000  # of targets, negatives and heads that the reward never meets


def faces(count: int, seed: int) -> Samples:
    """Draw faces from the pretrained generator."""
    seeds = row_seeds(derive(seed, "faces"), count)
    return face_policy().generate([""] * count, seeds=seeds)


def happiest(count: int, pool: int, seed: int) -> Samples:
    """Return the faces of a pool that the expression net finds happiest, the best first.

    Args:
        count: number of faces.
        pool: number of faces that they are chosen from.
        seed: seed of the pool.
    """
    settings = {"count": count, "pool": pool, "seed": seed}

    def choose(folder: Path) -> None:
        drawn = faces(pool, derive(seed, "pool"))
        scores = scores_of(Expression(), drawn)
        best = scores.argsort(descending=True, stable=True)[:count]
        save_samples(folder / "samples", drawn[best])

    return load_samples(cached("real-smiles", settings, PACKAGES, choose) / "samples")


def smiling_targets(
    count: int = 300, pool: int = 3000, held_out: int = 60, seed: int = 0
) -> TargetSamples:
    """Return GAN-RM's targets: the happiest of the generator's faces.

    Args:
        count: number of targets.
        pool: number of faces that they are chosen from.
        held_out: number of targets that are held out.
        seed: seed of the pool and of the split.
    """
    return TargetSamples(happiest(count, pool, seed), held_out=held_out, seed=seed)


def smile_reward(
    name: str = "efficientnet", side: int = 160, heads: int = 8, seed: int = 0
) -> VisionReward:
    """Return GAN-RM's reward with untrained heads on a pretrained tower.

    Args:
        name: of the tower; see `real.towers.tower`.
        side: pixels that the tower sees. At 96 a probe on EfficientNet-Lite0 tells smiles no better
            than on an untrained one (AUC 0.68 and 0.70); at 160 it does (0.79 and 0.73).
        heads: number of heads.
        seed: seed of the heads.
    """
    return VisionReward(tower(name, side), heads=heads, width=64, feature_share=0.7, seed=seed)


def witness(count: int = 300, pool: int = 3000, epochs: int = 20) -> VisionReward:
    """Return the independent witness: GAN-RM's reward on MobileNetV2, fitted once.

    Args:
        count: number of its targets, and of its negatives.
        pool: number of faces that the targets are chosen from.
        epochs: passes of the fit.
    """
    settings = {"count": count, "pool": pool, "epochs": epochs, "side": WITNESS_SIDE}
    make = partial(_fit_witness, count=count, pool=pool, epochs=epochs)
    folder = cached("real-witness", settings, (*PACKAGES, "open_clip_torch"), make)
    return VisionReward.from_pretrained(folder / "reward")


def _fit_witness(folder: Path, count: int, pool: int, epochs: int) -> None:
    reward = smile_reward("mobilenet", WITNESS_SIDE, seed=WITNESS_SEED)
    targets = happiest(count, pool, WITNESS_SEED)
    negatives = faces(count, derive(WITNESS_SEED, "negatives"))
    data = TargetSamples(targets, negatives, seed=WITNESS_SEED)
    optimizer = partial(torch.optim.AdamW, lr=0.002, weight_decay=0.1)
    module = GANRM(reward, label_smoothing=0.05, optimizer=optimizer, seed=WITNESS_SEED)
    Trainer(max_epochs=epochs, accelerator="cpu", **SILENT).fit(module, data)
    reward.save_pretrained(folder / "reward")
