"""GAN-RM's rounds on the digits, short: run folders that several claims read.

Targets are tilted samples of the generator (`claims.image_world`): 200 to learn from, 60 that the
rounds hold out for themselves, and 400 that no run sees, as many of each word, since a policy is
asked for each word alike and bold digits are more often eights. Loops that begin alike share their
stages, and a run that stands is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from claims.claim import Figures, Row, Work
from claims.image_world import folder_of, generator_of_digits, ink, parts, pool, tilted
from rewardlab.data.targets import TargetSamples
from rewardlab.embedded import digits
from rewardlab.embedded.digit_data import WORDS
from rewardlab.evaluation import Evaluation
from rewardlab.metrics import diversity, kernel_distance
from rewardlab.policies import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import VisionReward
from rewardlab.rounds import FitReward, GANRMRounds, PostTrain
from rewardlab.runs import read_runs
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.layout import SAMPLES, SAMPLES_FOLDER, stage_name
from rewardlab.runs.read import Run
from rewardlab.seeds import derive
from rewardlab.storage import load_samples
from rewardlab.training import DPO, GANRM, SFT
from rewardlab.types import Samples, concatenate

ROUNDS = 3
LOOPS: Mapping[str, Any] = {
    "SFT": partial(SFT, optimizer=partial(torch.optim.AdamW, lr=2e-4)),
    "DPO": partial(DPO, beta=2000, optimizer=partial(torch.optim.AdamW, lr=1e-4)),
}
BASE = "generator"
SETTINGS = (BASE, *(f"{loop}, round {number}" for loop in LOOPS for number in (1, 2, 3)))
SMALL_SETTINGS = (BASE, "SFT, round 1", "DPO, round 1")
HOW = (
    "Targets are samples of the digits' generator, drawn with odds exp(1.5 · ink in deviations): "
    "200 to learn from, 60 that stop the fit, 400 for the judges alone (40 a word). `rounds.GANRMRounds` runs "
    "three rounds: 260 negatives of the policy as it is, a fit of the trained tower's four heads "
    "for at most 15 epochs, the best (and worst) of 6 candidates for 80 prompts, and 60 steps of "
    "32 of SFT (learning rate 2e-4) or DPO (β = 2000, 1e-4), with no bootstrap, average of weights "
    "or guard. After each round 300 samples on fixed seeds are judged."
)


class Size(NamedTuple):
    """How large a run is."""

    targets: int
    held_out: int
    unseen: int
    epochs: int
    candidates: int
    groups: int
    steps: int
    batch: int
    judged: int
    sampler_steps: int


FULL = Size(200, 60, 40, 15, 6, 80, 60, 32, 300, 20)
SMALL = Size(20, 10, 4, 1, 2, 4, 1, 4, 20, 2)


def parsed(setting: str) -> tuple[str, int]:
    """Return the loop and the round of a setting; the generator is any loop's round 0."""
    if setting == BASE:
        return "SFT", 0
    loop, _, number = setting.partition(", round ")
    return loop, int(number)


def settings_of(loop: str, rounds: Sequence[int]) -> list[str]:
    """Return a loop's settings, the generator first."""
    return [BASE, *(f"{loop}, round {number}" for number in rounds)]


def rounds_of_rows(rows: Sequence[Row]) -> list[int]:
    """Return the rounds that were measured: at the small size only the first."""
    return sorted({parsed(row["setting"])[1] for row in rows} - {0})


def judged(work: Work, seed: int, loop: str, refresh: bool = True) -> Run:
    """Return the finished run of a loop and seed, which is made if it does not stand.

    Args:
        work: the size and the folder; the small size has one round, frozen two.
        seed: of targets, negatives, fits and training.
        loop: a name in `LOOPS`.
        refresh: draw negatives in each round, or keep the first.
    """
    folder = folder_of(work, "rounds", loop, "refreshed" if refresh else "frozen", seed)
    _make(work, seed, loop, refresh, folder)
    return read_runs([folder])[0]


@cache
def _make(work: Work, seed: int, loop: str, refresh: bool, folder: Path) -> None:
    config = {"loop": loop, "refresh": refresh, "seed": seed}
    stages = folder_of(work, "rounds", "stages", seed)
    run = RunFolder.open(folder, config, resume=True, stages_root=stages)
    rounds_of(work, seed, loop, refresh).run(run)


def rounds_of(work: Work, seed: int, loop: str, refresh: bool) -> GANRMRounds:
    """Return the rounds."""
    size = SMALL if work.small else FULL
    options = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": -1}
    return GANRMRounds(
        policy=_policy(size),
        reward=deepcopy(_tower()),
        targets=_targets(work, size, seed),
        prompts=list(WORDS),
        fit=FitReward(
            partial(GANRM, label_smoothing=0.05, optimizer=_HEADS, seed=seed),
            partial(pl.Trainer, **{**options, "max_epochs": size.epochs}),
        ),
        post_train=PostTrain(
            partial(LOOPS[loop], seed=seed),
            partial(pl.Trainer, max_steps=size.steps, **options),
            candidates=size.candidates,
            groups=size.groups,
            batch_size=size.batch,
        ),
        evaluation=Evaluation(size.judged, {"accuracy": _judge()}),
        negatives=size.targets + size.held_out,
        rounds=(1 if refresh else 2) if work.small else ROUNDS,
        refresh_negatives=refresh,
        seed=seed,
    )


_HEADS = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.1)


def figures_of(run: Run, number: int, work: Work, seed: int) -> Figures:
    """Return what the judges say after a round, and the round's own reward as the proxy.

    Args:
        run: a finished run.
        number: of the round; 0 is the generator.
        work: the size.
        seed: of the run, and so of the targets that it never saw.
    """
    step = {step.number: step for step in run.steps}.get(number)
    samples = samples_of(run, number)
    unseen, _ = unseen_targets(work, seed)
    return {
        "distance": kernel_distance(pixels(samples, work), pixels(unseen, work)),
        "ink": ink(samples, pool(work)).mean().item(),
        "accuracy": (run.base if step is None else step.judged)["accuracy"]["mean"],
        "diversity": diversity(features(samples)),
        "proxy_gain": None if step is None else _proxy(step.separation),
    }


def unseen_figures(work: Work, seed: int) -> Figures:
    """Return the ink of the unseen targets, and how far as many others are from them."""
    unseen, others = unseen_targets(work, seed)
    return {
        "ink_of_targets": ink(unseen, pool(work)).mean().item(),
        "distance_of_targets": kernel_distance(pixels(others, work), pixels(unseen, work)),
    }


@cache
def unseen_targets(work: Work, seed: int) -> tuple[Samples, Samples]:
    """Return two sets of targets, as many of each word, that a run neither learns from nor sees."""
    size = SMALL if work.small else FULL
    wanted = parts(work, size.targets + size.held_out, seed)[0]
    seen = torch.isin(pool(work).facts["seed"], wanted.facts["seed"])
    rest = pool(work)[~seen]
    count = size.unseen
    ours = []
    others = []
    for word in WORDS:
        rows = [row for row, prompt in enumerate(rest.prompts) if prompt == word]
        drawn = tilted(rest[rows], 2 * count, derive(seed, "unseen", word), scale=pool(work))
        ours.append(drawn[:count])
        others.append(drawn[count:])
    return concatenate(ours), concatenate(others)


def pixels(samples: Samples, work: Work) -> Tensor:
    """Return pixels [B, 64] in units of their root mean square in the pool, for distances."""
    scale = pool(work).outputs.square().mean().sqrt()
    return samples.outputs.flatten(1) / scale


def features(samples: Samples) -> Tensor:
    """Return the judge's features [B, 64], which hardly see ink, for the spread of outputs."""
    return _judge().features(samples)


def samples_of(run: Run, number: int) -> Samples:
    """Return the samples that were judged after a round; 0 are the generator's."""
    folder = run.stage(stage_name(number, SAMPLES))
    assert folder is not None, f"{run.path} has no samples of round {number}"
    return load_samples(folder / SAMPLES_FOLDER)


def _proxy(separation: Mapping[str, Any]) -> float:
    after: float = separation["score_after"]["mean"]
    return after - float(separation["score_before"]["mean"])


def _targets(work: Work, size: Size, seed: int) -> TargetSamples:
    wanted = parts(work, size.targets + size.held_out, seed)[0]
    return TargetSamples(wanted, held_out=size.held_out, channels=1, seed=seed)


def _policy(size: Size) -> DiffusionPolicy:
    policy = deepcopy(generator_of_digits())
    policy.sampler = Sampler(steps=size.sampler_steps, eta=1.0)
    return policy


@cache
def _tower() -> VisionReward:
    return digits.tower_reward(heads=4, seed=0)


@cache
def _judge() -> digits.DigitJudge:
    return digits.DigitJudge(seed=0)
