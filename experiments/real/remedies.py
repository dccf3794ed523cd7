"""One reward, fitted to preferences, and what is done against its hunger for length."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from real.numbers import number_format
from real.sentences import SentenceReward, smollm2_folder
from real.worlds import read_world
from rewardlab import AdvRM
from rewardlab.attackers import RandomEdits
from rewardlab.data import Preferences
from rewardlab.mining import adversarial_pairs
from rewardlab.rewards import Debiased, LanguageReward, Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples, concatenate

PLAIN = "plain"
CALIBRATED = "length calibrated"
ADVERSARIAL = "adversarial pairs"
LIMIT = 1.0  # deviations by which target and witness disagree about a mined attack


def remedied(
    remedy: str,
    pairs: str | None = None,
    count: int = 300,
    seed: int = 0,
) -> Reward:
    """Return the reward with one of the remedies; fitted once a process.

    Args:
        remedy: "plain", "length calibrated" or "adversarial pairs".
        pairs: the file of preferences; None takes the embedded world's.
        count: number of pairs to fit.
        seed: seed of pairs and fit.
    """
    return _fitted(remedy, pairs, count, seed)


@cache
def _fitted(remedy: str, pairs: str | None, count: int, seed: int) -> Reward:
    train = read_world(None if pairs is None else Path(pairs), None, count, seed).train
    if remedy == PLAIN:
        return fit(train, None, seed)
    plain = _fitted(PLAIN, pairs, count, seed)
    if remedy == CALIBRATED:
        return without_length(plain, train)
    calibrated = _fitted(CALIBRATED, pairs, count, seed)
    return fit(train, mined_pairs(plain, calibrated, train, seed), seed)


def fit(pairs: PreferencePairs, extra: PreferencePairs | None, seed: int) -> Reward:
    """Return a reward on the sentence encoder, fitted by Bradley and Terry's loss."""
    return fit_head(SentenceReward(seed), pairs, extra, seed)


def fit_on_smollm2(pairs: PreferencePairs, seed: int) -> Reward:
    """Return a reward whose frozen backbone is SmolLM2, fitted the same way."""
    reward = LanguageReward(
        smollm2_folder(),
        frozen=True,
        pooling="mean",
        dtype=number_format(),
        seed=seed,
    )
    return fit_head(reward, pairs, None, seed)


def fit_head(
    reward: Reward, pairs: PreferencePairs, extra: PreferencePairs | None, seed: int
) -> Reward:
    """Fit a head on frozen features, and return the reward in evaluation mode."""
    data = Preferences(pairs, extra=extra, held_out=0, batch_size=32, seed=seed)
    optimizer = partial(torch.optim.AdamW, lr=0.003, weight_decay=0.3)
    module = AdvRM(reward, optimizer=optimizer, seed=seed)
    trainer = Trainer(max_epochs=15, accelerator="cpu", limit_val_batches=0, **SILENT)
    trainer.fit(module, data)
    return reward.eval()


def without_length(reward: Reward, pairs: PreferencePairs) -> Reward:
    """Return the reward less what the number of words explains of it over the pairs' answers."""
    return Debiased(reward, concatenate([pairs.chosen, pairs.rejected])).eval()


def margins_of(reward: Reward, pairs: PreferencePairs) -> Tensor:
    """Return by how much chosen leads, [B]."""
    return scores_of(reward, pairs.chosen) - scores_of(reward, pairs.rejected)


def mined_pairs(
    target: Reward, witness: Reward, pairs: PreferencePairs, seed: int
) -> PreferencePairs:
    """Return adversarial pairs: answers against padded ones that only the target likes.

    Args:
        target: the reward that is to be hardened.
        witness: a reward that doubts padding, here the target without length.
        pairs: their answers are the references, and their chosen ones are padded.
        seed: seed of the edits.
    """
    references = concatenate([pairs.chosen, pairs.rejected])
    attacks = padded(pairs.chosen, seed)
    mined, funnel = adversarial_pairs(
        attacks,
        scores_of(target, attacks),
        scores_of(witness, attacks),
        references,
        scores_of(target, references),
        scores_of(witness, references),
        z=LIMIT,
        per_prompt=len(attacks),
    )
    print(f"  mined: {funnel.counts}", flush=True)
    return mined


def padded(samples: Samples, seed: int) -> Samples:
    """Return answers made longer: every other one is said twice, of the rest each word is."""
    twice = repeated(samples)
    stuttered = RandomEdits(rate=1.0, kinds=["duplicate"]).edit(samples, seed)
    texts = []
    for row in range(len(samples)):
        texts.append((twice if row % 2 == 0 else stuttered).outputs[row])
    return Samples(samples.prompts, texts)


def repeated(samples: Samples) -> Samples:
    """Return every text said twice."""
    return Samples(samples.prompts, [f"{text} {text}" for text in samples.outputs])
