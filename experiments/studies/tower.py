"""What a small tower keeps: how well a linear probe on its features tells bold targets from
generated digits.

    OMP_NUM_THREADS=1 python experiments/studies/tower.py

Prints the cross-validated AUC of the probe, and its rank correlation with ink among the generated
digits, for towers that were trained longer and longer; 0 steps is a random tower. Ink alone is the
last row.
"""

from __future__ import annotations

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rewardlab.embedded.digits import base_policy, digits, tower_reward
from rewardlab.metrics import auc, rank_correlation
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import concatenate


def main() -> None:
    """Measure every tower on the same 300 targets and 300 generated digits."""
    targets = digits("targets")
    drawn = base_policy().generate(
        targets.prompts, seeds=row_seeds(derive(0, "tower study"), len(targets))
    )
    both = concatenate([targets, drawn])
    labels = torch.cat([torch.ones(len(targets)), torch.zeros(len(drawn))])
    ink = both.outputs.mean((1, 2, 3))
    print("steps  AUC    rank correlation with ink")
    for steps in (0, 60, 120, 250, 600):
        features = tower_reward(steps).features(both)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        scores = torch.from_numpy(
            cross_val_predict(probe, features, labels, cv=5, method="decision_function")
        )
        print(
            f"{steps:5}  {auc(scores, labels):.3f}  {rank_correlation(scores[len(targets) :], ink[len(targets) :]):.3f}"
        )
    print(f"  ink  {auc(ink, labels):.3f}  1.000")


if __name__ == "__main__":
    main()
