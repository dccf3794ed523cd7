"""A reward as a weighted sum of members: equal to its own forward."""

import pytest
import torch

from rewardlab import VisionReward
from rewardlab.errors import InputError
from rewardlab.exporting import combination_of
from rewardlab.exporting.combination import members_of
from rewardlab.rewards import (
    Bottleneck,
    Certainty,
    Corrected,
    Ensemble,
    Length,
    Member,
    Standardized,
    Tolerant,
    Weighted,
)
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

TOWER = tiny_tower()
ONE = VisionReward(TOWER, heads=2, width=4, seed=1)
OTHER = VisionReward(TOWER, heads=3, width=4, seed=2)
SAMPLES = Samples([""] * 4, torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def corrected():
    """Return a reward plus a correction that has been settled and rescaled."""
    reward = Corrected(ONE, OTHER, weight=2.0, keep_deviation=True)
    reward.settle(torch.tensor([0.0, 1.0, 5.0]))
    reward.settle(torch.tensor([0.0, 2.0, 3.0]))
    return reward


REWARDS = {
    "heads": ONE,
    "standardized": Standardized(ONE, mean=0.5, std=0.25),
    "weighted": Weighted([ONE, OTHER], [2.0, -0.5]),
    "ensemble": Ensemble([ONE, Standardized(OTHER, mean=1.0, std=3.0)]),
    "member": Member(Ensemble([ONE, OTHER]), 3),
    "member of a sum": Member(Weighted([ONE, Standardized(Member(OTHER, 0), 1.0, 2.0)], [1, 2]), 1),
    "sums of ensembles in an ensemble": Ensemble([Weighted([ONE, OTHER], [1.0, 2.0]), ONE]),
    "corrected": corrected(),
    "a correction alone": Corrected(None, ONE, weight=3.0),
    "a member of a correction": Member(corrected(), 1),
    "a tolerant": Tolerant(Weighted([ONE, OTHER], [1.0, 1.0])),
    "bottleneck": Ensemble([Bottleneck(ONE, width=4, heads=2), OTHER]),
}


@pytest.mark.parametrize("name", REWARDS)
def test_a_sum_over_members_is_the_rewards_own_score(name):
    reward = REWARDS[name].eval()
    combination = combination_of(reward)
    scores = torch.full((len(SAMPLES),), combination.offset, dtype=torch.float64)
    with torch.no_grad():
        for term in combination.terms:
            scores += term.reward.members(SAMPLES).double() @ term.weights
        expected = reward(SAMPLES)
    torch.testing.assert_close(scores.float(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", REWARDS)
def test_sums_over_members_are_the_rewards_own_members(name):
    reward = REWARDS[name].eval()
    columns = []
    with torch.no_grad():
        for member in members_of(reward):
            column = torch.full((len(SAMPLES),), member.offset, dtype=torch.float64)
            for term in member.terms:
                column += term.reward.members(SAMPLES).double() @ term.weights
            columns.append(column)
        expected = reward.members(SAMPLES)
    torch.testing.assert_close(torch.stack(columns, 1).float(), expected, atol=1e-5, rtol=1e-5)


def test_a_reward_that_is_no_sum_is_refused_by_its_name():
    with pytest.raises(InputError, match="Certainty is neither"):
        combination_of(Standardized(Certainty(Bottleneck(ONE, width=4)), mean=0.0, std=1.0))
    with pytest.raises(InputError, match="Length is neither"):
        combination_of(Weighted([ONE, Length()], [1.0, 1.0]))
    with pytest.raises(InputError, match=r"index=2\) of a reward with 2 members"):
        combination_of(Member(ONE, 2))
