"""Measure what a small tower keeps, by linear probes that tell targets from generated digits.

    OMP_NUM_THREADS=1 python experiments/studies/tower.py

Prints the cross-validated AUC of a probe on the tower's features, and its rank correlation with ink
among the generated digits. The towers were trained longer and longer; 0 steps is a random tower.
The last row is ink alone.
"""

from __future__ import annotations

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from rewardlab.embedded.digits import base_policy, digits, tower_reward
from rewardlab.metrics import auc, rank_correlation
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import concatenate

STEPS = (0, 60, 120, 250, 600)


def main() -> None:
    """Measure every tower on the same 300 targets and 300 generated digits."""
    targets = digits("targets")
    seeds = row_seeds(derive(0, "tower study"), len(targets))
    generated = base_policy().generate(targets.prompts, seeds=seeds)
    both = concatenate([targets, generated])
    labels = torch.cat([torch.ones(len(targets)), torch.zeros(len(generated))])
    ink = both.outputs.mean((1, 2, 3))
    print("steps  AUC    rank correlation with ink")
    for steps in STEPS:
        scores = probe_scores(tower_reward(steps).features(both), labels)
        of_generated = slice(len(targets), None)
        correlation = rank_correlation(scores[of_generated], ink[of_generated])
        print(f"{steps:5}  {auc(scores, labels):.3f}  {correlation:.3f}")
    print(f"  ink  {auc(ink, labels):.3f}  1.000")


def probe_scores(features: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-validated scores [N] of a linear probe on features [N, D]."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    scores = cross_val_predict(probe, features, labels, cv=5, method="decision_function")
    return torch.from_numpy(scores)


if __name__ == "__main__":
    main()
