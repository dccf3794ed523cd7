"""Readings of a policy in training: its reward, and monitors that it is not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from rewardlab.conversations import Prompt
from rewardlab.evaluation.features import features_of
from rewardlab.evaluation.prompts import in_turn
from rewardlab.evaluation.video_measures import CONSISTENCY, video_measures
from rewardlab.metrics import kernel_distance, kernel_distance_interval
from rewardlab.policies import Generator, Policy
from rewardlab.policies.norm_ratios import norm_ratios_of, records_norms
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.scoring import judged, scored_members, scored_part, scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples

Z = 1.96


class TrainedLoop(Protocol):
    """What monitors read of a training loop. Every loop of `rewardlab.training` has it.

    Attributes:
        policy: the policy that is trained.
        reward: the reward that is optimized; None if the loop has none.
        reference: the frozen policy that the loop is held to; None if it is held to none.
    """

    policy: Policy
    reward: Reward | None
    reference: Policy | None


@dataclass
class MonitoredPolicy:
    """What a policy in training is monitored with.

    Attributes:
        reward: the reward that is optimized.
        prompts: prompts of the outputs that are read.
        held_out: real outputs that nothing is trained on, for the distance from them.
        classifier: a reward that nothing is optimized against.
        held_out_prompts: prompts that nothing is trained on, for `Readings`.
        outliers: what counts outliers among the outputs, by outputs of the first policy.
        features: the reward's features of `held_out`, computed at the first reading.
    """

    reward: Reward
    prompts: Sequence[Prompt]
    held_out: Samples | None = None
    classifier: Reward | None = None
    held_out_prompts: Sequence[Prompt] = ()
    outliers: Reward | None = None
    features: Tensor | None = field(default=None, init=False)


@dataclass(frozen=True)
class Reading:
    """One monitor at one time.

    Attributes:
        value: the figure; worse when higher.
        standard_error: its standard error.
    """

    value: float
    standard_error: float


class PolicyReadings(NamedTuple):
    """Readings of one set of outputs.

    Attributes:
        scores: the reward's scores [B].
        monitors: the reading of each monitor that has data, by name.
    """

    scores: Tensor
    monitors: dict[str, Reading]


@torch.no_grad()
def readings_of(
    policy: Generator,
    monitored: MonitoredPolicy,
    samples: int,
    seed: int,
    reference: Policy | None = None,
) -> PolicyReadings:
    """Draw outputs, and return the reward's scores and each monitor's reading of them.

    Args:
        policy: the generator that is read, in evaluation mode.
        monitored: the reward, the prompts and the monitors.
        samples: number of outputs, the prompts in turn.
        seed: seed of the outputs' noise.
        reference: what a policy's velocities are compared with, by `reference_for_norms`.
    """
    seeds = row_seeds(derive(seed, "guard"), samples)
    with in_eval_mode(policy):
        outputs = policy.generate(in_turn(monitored.prompts, samples), seeds=seeds)
    scores, members = scored_members(monitored.reward, outputs, "outputs of a guard")
    monitors = {}
    if members.shape[1] > 1:
        monitors["disagreement"] = _mean_reading(members.std(1))
    if monitored.classifier is not None:
        result = judged(monitored.classifier, outputs)
        classifier_scores = scored_part(outputs, result, "outputs of a guard").scores
        monitors["classifier"] = _mean_reading(-classifier_scores)
    if monitored.outliers is not None:
        monitors["outliers"] = _mean_reading(-scores_of(monitored.outliers, outputs))
    if monitored.held_out is not None and frozen_features(monitored.reward) is not None:
        if monitored.features is None:
            monitored.features = features_of(monitored.reward, monitored.held_out)
        features = features_of(monitored.reward, outputs)
        monitors["distance"] = _distance_reading(features, monitored.features, seed)
    if reference is not None and isinstance(policy, Policy):
        monitors["norm_ratio"] = _norm_reading(policy, reference, outputs, seed)
    monitors |= _video_readings(outputs, monitored.reward)
    return PolicyReadings(scores, monitors)


def _norm_reading(policy: Policy, reference: Policy, samples: Samples, seed: int) -> Reading:
    """Return the mean of ‖v‖/‖v_ref‖ over samples.

    NormGuard, arXiv 2606.27771. It costs one pass of each network over the samples.
    """
    seeds = row_seeds(derive(seed, "norm ratio"), len(samples))
    with in_eval_mode(policy):
        ratios = norm_ratios_of(policy, reference, samples, seeds)
    return _mean_reading(ratios)


def reference_for_norms(loop: TrainedLoop) -> Policy | None:
    """Return the loop's reference or, where it has none, its policy as it is now, frozen.

    The latter is no copy where an adapter is trained. It is None where velocities are not recorded.
    """
    if not records_norms(loop.policy):
        return None
    if loop.reference is not None:
        return loop.reference if records_norms(loop.reference) else None
    return loop.policy.reference().eval().requires_grad_(False)


def _video_readings(outputs: Samples, reward: Reward) -> dict[str, Reading]:
    """Return how little videos move, how much they flicker and how unlike their frames are."""
    extractor = reward if frozen_features(reward) is not None else None
    measures = video_measures(outputs, extractor)
    readings = {}
    if "motion" in measures:
        readings["stillness"] = _mean_reading(-measures["motion"])
    if "flicker" in measures:
        readings["flicker"] = _mean_reading(measures["flicker"])
    if CONSISTENCY in measures:
        readings["inconsistency"] = _mean_reading(1 - measures[CONSISTENCY])
    return readings


def _mean_reading(values: Tensor) -> Reading:
    """Return the mean of values [B]."""
    standard_error = values.std() / len(values) ** 0.5
    return Reading(values.mean().item(), standard_error.item())


def _distance_reading(features: Tensor, real: Tensor, seed: int) -> Reading:
    """Return KID between features [B, D] and [N, D]."""
    low, high = kernel_distance_interval(features, real, seed=seed)
    return Reading(
        value=kernel_distance(features, real),
        standard_error=(high - low) / (2 * Z),
    )


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and give it its mode back afterwards."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def log_figures(trainer: Trainer, prefix: str, figures: Mapping[str, float]) -> None:
    """Log each figure as "prefix/name" at the trainer's step, so that files have it at once."""
    metrics = {f"{prefix}/{name}": value for name, value in figures.items()}
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)
        logger.save()
