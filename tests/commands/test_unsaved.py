"""What a run cannot save is said before it trains."""

import logging

import pytest
from torch import nn

from rewardlab.commands.unsaved import announce_unsaved
from rewardlab.policies import LatentPolicy
from rewardlab.rewards import Function, Length, Reward
from rewardlab.testing import tiny_latent_generator


class Own(Reward):
    """A reward as a user writes it, without `save_pretrained`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(1, 1)

    def forward(self, samples):
        return self.weight.weight.expand(len(samples), 1)[:, 0]


@pytest.mark.parametrize(
    ("part", "reason"),
    [(Own(), "no save_pretrained"), (Function(lambda samples: samples), "lambda")],
)
def test_what_will_not_be_saved_is_said(part, reason, caplog):
    with caplog.at_level(logging.WARNING, "rewardlab"):
        announce_unsaved(part, "reward")
    assert "will leave no reward/" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("part", [Length(), LatentPolicy(tiny_latent_generator(), shape=[6])])
def test_what_is_saved_is_not_mentioned(part, caplog):
    announce_unsaved(part, "reward")
    assert not caplog.records
