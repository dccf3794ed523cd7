"""Figures about a policy, with judges (gold) that no training loop sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rewardlab.evaluation.guard import features_in_batches
from rewardlab.metrics import (
    auc,
    auc_interval,
    diversity,
    kernel_distance,
    kernel_distance_interval,
    mean_interval,
)
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples

Figures = dict[str, Any]


@dataclass
class Evaluation:
    """How a policy is judged after it was trained, on prompts and seeds that stay the same from
    round to round.

    Args:
        samples: outputs that are judged.
        judges: named gold rewards and measured attributes; read here and nowhere else. The first
            that has `features` lends them to the distance (KID) from held-out targets; without one
            there is no distance.
        seed: of the outputs' noise.
    """

    samples: int = 500
    judges: dict[str, Reward] = field(default_factory=dict)
    seed: int = 0

    def draw(self, policy: Policy, prompts: Sequence[str]) -> Samples:
        """Return the outputs to judge, the prompts in turn."""
        repeated = [prompts[i % len(prompts)] for i in range(self.samples)]
        return policy.generate(
            repeated, seeds=row_seeds(derive(self.seed, "evaluation"), self.samples)
        )

    def judge(self, samples: Samples, real: Samples) -> Figures:
        """Return each judge's mean with its 95 % interval, and the distance from `real` beside real
        against real.
        """
        figures: Figures = {
            name: mean_figure(scores_of(judge, samples)) for name, judge in self.judges.items()
        }
        eyes = next(filter(None, map(frozen_features, self.judges.values())), None)
        if eyes is not None:
            figures |= distance_figures(
                features_in_batches(eyes, samples), features_in_batches(eyes, real), self.seed
            )
        return figures


def mean_figure(values: Tensor) -> Figures:
    """Return the mean of `values` [B] with its 95 % bootstrap interval."""
    low, high = mean_interval(values)
    return {"mean": values.mean().item(), "low": low, "high": high}


def distance_figures(own: Tensor, real: Tensor, seed: int) -> Figures:
    """Return KID between own and real features with its 95 % interval, between two halves of the
    real, and the own diversity.

    Features are scaled to a mean square of 1 over the real ones, as KID's kernel depends on their
    scale.
    """
    scale = real.square().mean().sqrt()
    own = own / scale
    real = real / scale
    order = row_seeds(derive(seed, "halves"), len(real)).argsort()
    halves = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
    low, high = kernel_distance_interval(own, real, seed=seed)
    return {
        "distance": {"mean": kernel_distance(own, real), "low": low, "high": high},
        "real_distance": {"mean": kernel_distance(*halves)},
        "diversity": {"mean": diversity(own)},
    }


def separation_figures(scores: Mapping[str, Tensor], seed: int = 0) -> Figures:
    """Return how a reward sees held-out targets ("targets") against the policy "before" and
    "after": means and AUCs.
    """
    figures: Figures = {f"score_{name}": mean_figure(values) for name, values in scores.items()}
    for name in scores.keys() - {"targets"}:
        both = torch.cat([scores["targets"], scores[name]])
        labels = torch.cat([torch.ones(len(scores["targets"])), torch.zeros(len(scores[name]))])
        low, high = auc_interval(both, labels, seed=seed)
        figures[f"auc_{name}"] = {"mean": auc(both, labels), "low": low, "high": high}
    return figures
