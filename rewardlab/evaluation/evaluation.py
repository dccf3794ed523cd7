"""Evaluation: figures about a policy from judges (gold) that no training loop sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.evaluation.features import features_of
from rewardlab.evaluation.prompts import in_turn
from rewardlab.evaluation.video_measures import video_measures
from rewardlab.metrics import (
    auc,
    auc_interval,
    diversity,
    kernel_distance,
    kernel_distance_interval,
    mean_interval,
)
from rewardlab.policies import Generator
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.scoring import judged, scored_part
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples

Figures = dict[str, Any]


@dataclass
class Evaluation:
    """Judge a policy after training, on prompts and seeds that stay the same in every round.

    Args:
        samples: number of outputs that are judged.
        judges: named gold rewards and measured attributes. They are read here and nowhere else. The
            first that has frozen features lends them to the distance (KID) from held-out targets.
            Without such a judge there is no distance.
        seed: seed of the outputs' noise.
    """

    samples: int = 500
    judges: dict[str, Reward] = field(default_factory=dict)
    seed: int = 0

    def draw(self, policy: Generator, prompts: Sequence[Prompt]) -> Samples:
        """Return the outputs to judge, the prompts in turn."""
        seeds = row_seeds(derive(self.seed, "evaluation"), self.samples)
        return policy.generate(in_turn(prompts, self.samples), seeds=seeds)

    def judge(self, samples: Samples, real: Samples) -> Figures:
        """Return each judge's mean with its 95 % interval, and the distance from `real`.

        The mean is over what a judge scores; where it leaves outputs out, "unscored" is their
        number.

        Beside the distance stands that of real outputs from real ones. Of videos "motion",
        "flicker" and "temporal consistency" are measured too, unless a judge has the name.
        """
        extractor = self._feature_judge()
        figures: Figures = {}
        for name, values in video_measures(samples, extractor).items():
            figures[name] = mean_figure(values)
        for name, judge in self.judges.items():
            figures[name] = judged_figure(judge, samples)
        if extractor is not None:
            features = features_of(extractor, samples)
            real_features = features_of(extractor, real)
            figures |= distance_figures(features, real_features, self.seed)
        return figures

    def _feature_judge(self) -> Reward | None:
        """Return the first judge that has frozen features."""
        for judge in self.judges.values():
            if frozen_features(judge) is not None:
                return judge
        return None


def judged_figure(judge: Reward, samples: Samples) -> Figures:
    """Return a judge's mean over the samples that it scores, and how many it left out, if any.

    Raises:
        InputError: if it scores none, or leaves out more than its share.
    """
    result = judged(judge, samples)
    figure = mean_figure(scored_part(samples, result, "outputs").scores)
    if result.unscored:
        figure["unscored"] = result.unscored
    return figure


def mean_figure(values: Tensor) -> Figures:
    """Return the mean of `values` [B] with its 95 % bootstrap interval."""
    low, high = mean_interval(values)
    return {"mean": values.mean().item(), "low": low, "high": high}


def distance_figures(features: Tensor, real: Tensor, seed: int) -> Figures:
    """Return the distance of a policy's features from real ones, and their diversity.

    The distance is KID with its 95 % interval. Beside it stands KID between two halves of the real
    features. Features are scaled to a mean square of 1 over the real ones, as KID's kernel depends
    on their scale.

    Args:
        features: features [B, D] of the policy's outputs.
        real: features [N, D] of real outputs.
        seed: seed of the halves and of the interval's resampling.
    """
    scale = real.square().mean().sqrt()
    features = features / scale
    real = real / scale
    order = row_seeds(derive(seed, "halves"), len(real)).argsort()
    middle = len(real) // 2
    first_half = real[order[:middle]]
    second_half = real[order[middle:]]
    low, high = kernel_distance_interval(features, real, seed=seed)
    return {
        "distance": {"mean": kernel_distance(features, real), "low": low, "high": high},
        "real_distance": {"mean": kernel_distance(first_half, second_half)},
        "diversity": {"mean": diversity(features)},
    }


def separation_figures(scores: Mapping[str, Tensor], seed: int = 0) -> Figures:
    """Return how a reward separates held-out targets from a policy: means and AUCs.

    Args:
        scores: the reward's scores [N] of "targets", and of the policy's outputs "before" and
            "after".
        seed: seed of the intervals' resampling.
    """
    figures: Figures = {}
    for name, values in scores.items():
        figures[f"score_{name}"] = mean_figure(values)
    for name in scores.keys() - {"targets"}:
        figures[f"auc_{name}"] = _auc_figure(scores["targets"], scores[name], seed)
    return figures


def _auc_figure(targets: Tensor, outputs: Tensor, seed: int) -> Figures:
    """Return the AUC of targets against a policy's outputs, with its 95 % interval."""
    scores = torch.cat([targets, outputs])
    labels = torch.cat([torch.ones(len(targets)), torch.zeros(len(outputs))])
    low, high = auc_interval(scores, labels, seed=seed)
    return {"mean": auc(scores, labels), "low": low, "high": high}
