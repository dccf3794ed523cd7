"""OutlierMonitor: MOP of a policy in training, by outputs of the policy that it started from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.evaluation.monitors import TrainedLoop, in_eval_mode
from rewardlab.evaluation.prompts import in_turn
from rewardlab.policies.reference import first_reference
from rewardlab.rewards import Reward
from rewardlab.rewards.novelty import Outliers
from rewardlab.seeds import derive, row_seeds


@dataclass
class OutlierMonitor:
    """How `Guard` and `Readings` count outliers: `rewards.Outliers` on the reference's outputs.

    They are drawn once, at the first reading, from the loop's frozen reference: the policy that the
    run started from. So a resumed run counts the same.

    Args:
        features: a reward with frozen features, such as the first policy's backbone or an embedding
            model; by default the reward that is optimized.
        references: outputs of the reference that are drawn; half of them calibrate.
        level: p at which an output is an outlier.
        dimensions: principal components of the features that are kept at most.
        seed: seed of the references' noise.
    """

    features: Reward | None = None
    references: int = 400
    level: float = 0.01
    dimensions: int = 75
    seed: int = 0

    @torch.no_grad()
    def fit(self, loop: TrainedLoop, prompts: Sequence[Prompt]) -> Outliers:
        """Draw references, and return what tells outliers from them.

        Args:
            loop: its reference draws.
            prompts: of the references, in turn.

        Raises:
            InputError: if the loop has no reference, there are no features, or the references are
                too few for the level.
        """
        features = self.features if self.features is not None else loop.reward
        if loop.reference is None or features is None:
            raise InputError(
                "Outliers are told by outputs of the loop's reference and features of a reward; "
                f"{type(loop).__name__} has no reference or no reward. Train by PPO or DPO, or "
                "make rewards.Outliers of outputs yourself."
            )
        seeds = row_seeds(derive(self.seed, "outlier references"), self.references)
        reference = first_reference(loop.reference)
        with in_eval_mode(reference):
            outputs = reference.generate(in_turn(prompts, self.references), seeds=seeds)
        return Outliers(
            features.eval(), outputs, level=self.level, dimensions=self.dimensions, seed=self.seed
        )
