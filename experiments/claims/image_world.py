"""The digits as a world whose density ratio is known: targets are tilted samples of the generator.

The generator is `rewardlab.embedded.digits.base_policy`, and gold is a picture's ink in deviations
of a large pool of its samples. Targets are drawn from the pool with odds exp(STRENGTH · gold), so
log p_target/q = STRENGTH · gold + a constant, and there are as many targets as a claim asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from claims.claim import Work
from rewardlab.data.targets import TargetSamples
from rewardlab.embedded import digits
from rewardlab.embedded.digit_data import WORDS
from rewardlab.policies import DiffusionPolicy
from rewardlab.rewards import VisionReward
from rewardlab.runs.locks import locked
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage import load_samples, save_samples
from rewardlab.training import GANRM
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples

STRENGTH = 1.5
Pseudo = tuple[Samples, Tensor]


@cache
def generator_of_digits() -> DiffusionPolicy:
    """Return the generator."""
    return digits.base_policy(seed=0)


@cache
def pool(work: Work) -> Samples:
    """Return samples of the generator that all claims share: 20,000, or 600 at the small size."""
    folder = work.folder / "digits-pool"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / "digits-pool.lock", wait=True):
        if not folder.exists():
            save_samples(folder, drawn(600 if work.small else 20_000, seed=0))
    return load_samples(folder)


def drawn(count: int, seed: int, policy: DiffusionPolicy | None = None) -> Samples:
    """Return samples of the generator, or of a policy made of it, the ten words in turn."""
    prompts = [WORDS[number % len(WORDS)] for number in range(count)]
    return (policy or generator_of_digits()).generate(prompts, seeds=row_seeds(seed, count))


def ink(samples: Samples, pool: Samples) -> Tensor:
    """Return gold: the mean of a picture's pixels, in the pool's deviations above its mean: [B]."""
    of_pool = pool.outputs.mean((1, 2, 3))
    return (samples.outputs.mean((1, 2, 3)) - of_pool.mean()) / of_pool.std()


def tilted(
    pool: Samples, count: int, seed: int, strength: float = STRENGTH, scale: Samples | None = None
) -> Samples:
    """Return different samples of the pool, each drawn with odds exp(strength · gold).

    By the Gumbel trick, one after the other without putting any back; so a large share of the pool
    is tilted less than a small one.

    Args:
        pool: what is drawn from.
        count: how many.
        seed: of the draw.
        strength: log-odds a deviation of gold.
        scale: whose mean and deviation gold is in; the pool's own by default.
    """
    noise = torch.rand(len(pool), generator=dice(seed, "tilted"))
    keys = strength * ink(pool, pool if scale is None else scale) - torch.log(-torch.log(noise))
    rows = keys.topk(count).indices
    return pool[rows[torch.randperm(count, generator=dice(seed, "order"))].tolist()]


def parts(work: Work, targets: int, seed: int, held_out: int = 500) -> tuple[Samples, ...]:
    """Return disjoint samples: targets, as many negatives, held-out targets and held-out samples.

    Args:
        work: the size; the small one takes at most 100 targets and holds out 40.
        targets: how many the reward may learn from.
        seed: of what is drawn.
        held_out: how many of each kind are held out.
    """
    if work.small:
        targets, held_out = min(targets, 100), 40
    everything = pool(work)
    order = torch.randperm(len(everything), generator=dice(seed, "parts")).tolist()
    negatives = everything[order[:targets]]
    base = everything[order[targets : targets + held_out]]
    rest = everything[order[targets + held_out :]]
    wanted = tilted(rest, targets + held_out, seed)
    return wanted[:targets], negatives, wanted[targets:], base


def fitted(
    targets: Samples | Path,
    negatives: Samples | Path,
    seed: int,
    pseudo: Pseudo | None = None,
    steps: int = 300,
    heads: int = 4,
    conditional: bool = False,
    **options: Any,
) -> VisionReward:
    """Return a reward that was fitted as in configs/gan_rm/digits.yaml, for a number of steps.

    Args:
        targets: what is wanted; a tenth of it is held out, as the library asks, and not looked at.
        negatives: samples of the generator. Pictures of folders are read as grey.
        seed: of heads and batches.
        pseudo: samples with labels of their own.
        steps: optimizer steps, whatever the number of samples.
        heads: of the reward.
        conditional: whether it reads prompts; targets and negatives then have the same ones.
        options: of `GANRM`.
    """
    reward = digits.tower_reward(heads=heads, conditional=conditional, seed=0)
    data = TargetSamples(targets, negatives, held_out=0.1, channels=1, seed=seed)
    if pseudo is not None:
        data = data.against(negatives, pseudo)
    optimizer = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.1)
    loop = GANRM(reward, label_smoothing=0.05, optimizer=optimizer, seed=seed, **options)
    trainer_of(steps).fit(loop, data)
    return reward.eval()


def trainer_of(steps: int) -> pl.Trainer:
    """Return a trainer of so many steps that validates nothing, which changes no weight."""
    options = {"max_epochs": -1, "accelerator": "cpu", "limit_val_batches": 0, **SILENT}
    return pl.Trainer(max_steps=steps, **options)


def auc(targets: Tensor, samples: Tensor) -> float:
    """Return how often a target's score is above a sample's."""
    labels = [1] * len(targets) + [0] * len(samples)
    return float(roc_auc_score(labels, torch.cat([targets, samples])))


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's correlation."""
    return float(spearmanr(one, other).statistic)


def dice(seed: int, name: str) -> torch.Generator:
    """Return a source of random numbers for one purpose."""
    return torch.Generator().manual_seed(derive(seed, name))


def folder_of(work: Work, *names: object) -> Path:
    """Return a folder of the work's, such as that of a run."""
    return work.folder.joinpath("-".join(str(name) for name in names))


def unseen(everything: Samples, taken: Sequence[Samples], seed: int) -> Samples:
    """Return the samples of a pool that are in none of the parts taken from it, shuffled."""
    used = torch.cat([part.facts["seed"] for part in taken])
    rows = (~torch.isin(everything.facts["seed"], used)).nonzero()[:, 0]
    return everything[rows[torch.randperm(len(rows), generator=dice(seed, "unseen"))]]


def by_word(samples: Samples) -> Samples:
    """Return as many samples of each word, those of a word together."""
    words = torch.tensor([WORDS.index(str(word)) for word in samples.prompts])
    counts = words.bincount(minlength=len(WORDS)).tolist()
    rows = words.argsort(stable=True).split(counts)
    return samples[torch.cat([of_word[: min(counts)] for of_word in rows])]
