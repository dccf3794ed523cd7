"""A small reward that refuses texts with a marker word, for tests of what is not scored."""

from __future__ import annotations

import torch

from rewardlab.rewards import Judged, Reward
from rewardlab.rewards.abilities import Partial
from rewardlab.rewards.unscored import partial_scores
from rewardlab.types import Samples

MARK = "refuse"


class Refusing(Reward, Partial):
    """The number of words; texts that hold the mark are not scored."""

    def __init__(self, mark: str = MARK, most_unscored: float = 1.0) -> None:
        super().__init__()
        self.mark = mark
        self.most_unscored = most_unscored

    def judge(self, samples: Samples) -> Judged:
        reasons = [f"it says {self.mark}" if self.mark in text else "" for text in samples.outputs]
        counts = [float(len(text.split())) for text in samples.outputs]
        return Judged(torch.tensor(counts), reasons)

    def forward(self, samples):
        return partial_scores(self, samples)


def texts(*outputs: str) -> Samples:
    """Return outputs of one prompt."""
    return Samples(["hi"] * len(outputs), list(outputs))
