"""A correction with a score a word, and a loop that draws words, for tests of Online."""

from functools import partial

import torch
from torch import nn
from torch.optim import SGD

from rewardlab.networks.unregistered import hold
from rewardlab.rewards import Reward
from rewardlab.training.base import Trained
from rewardlab.types import Samples

WORDS = ["red", "green", "blue"]
WANTED = torch.tensor([0.7, 0.2, 0.1])
DRAWN = torch.tensor([0.2, 0.3, 0.5])


class Table(Reward):
    """A score of its own for each word."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(len(WORDS)))

    def forward(self, samples):
        return self.scores[[WORDS.index(word) for word in samples.outputs]]


class Drawing(Trained):
    """A loop whose policy draws words with fixed probabilities and learns nothing."""

    learns_from = "prompts"

    def __init__(self, reward, draws):
        super().__init__(partial(SGD, lr=0.1), None, 0)
        hold(self, "reward", reward)
        self.draws = draws
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.announce(self.draws)
        return self.weight.square()


def words(probabilities, count=10):
    """Return samples in which each word comes as often as its probability says."""
    counts = (probabilities * count).round().long().tolist()
    texts = [word for word, times in zip(WORDS, counts, strict=True) for _ in range(times)]
    return Samples([""] * len(texts), texts)
