import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import Ensemble, Function
from rewardlab.rewards.pessimism import Member, Pessimistic
from rewardlab.testing import RewardConformance
from rewardlab.types import Samples

SCORES = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 3.0]])
ROWS = Samples([""] * 3, list("012"))


def column(scores):
    """A reward whose score of row "i" is the i-th value."""

    def looked_up(samples):
        rows = [int(text) for text in samples.outputs]
        return scores[rows]

    return Function(looked_up)


def members(scores=SCORES):
    return Ensemble([column(scores[:, m]) for m in range(scores.shape[1])])


class TestPessimistic(RewardConformance):
    def make(self):
        return Pessimistic(members(), "mean_minus_std", 1.0)

    def samples(self):
        return ROWS


class TestMember(RewardConformance):
    def make(self):
        return Member(members(), 1)

    def samples(self):
        return ROWS


COLUMNS = SCORES.numpy()
MEAN = COLUMNS.mean(1)


@pytest.mark.parametrize(
    ("kind", "weight", "expected"),
    [
        ("mean", None, MEAN),
        ("minimum", None, COLUMNS.min(1)),
        ("mean_minus_variance", 0.1, MEAN - 0.1 * np.var(COLUMNS, axis=1, ddof=1)),
        ("mean_minus_std", 2.0, MEAN - 2 * np.std(COLUMNS, axis=1, ddof=1)),
    ],
)
def test_the_formulas(kind, weight, expected):
    """WCO is the minimum, UWO the mean less λ times the variance; both spreads are unbiased."""
    reward = Pessimistic(members(), kind, weight)
    scores = torch.tensor(expected)
    assert_close(reward(ROWS), scores)
    assert_close(reward.members(ROWS), scores[:, None])


def test_weights_where_they_belong_and_members_to_compare():
    with pytest.raises(InputError, match="weight=None"):
        Pessimistic(members(), "mean_minus_std")
    with pytest.raises(InputError, match=r"weight=1\.0"):
        Pessimistic(members(), "minimum", 1.0)
    alone = members(SCORES[:, :1])
    with pytest.raises(InputError, match="Ensemble has one"):
        Pessimistic(alone)(ROWS)
    assert_close(Pessimistic(alone, "mean")(ROWS), SCORES[:, 0])


def test_a_member_is_its_column():
    assert_close(Member(members(), 2)(ROWS), SCORES[:, 2])


@pytest.mark.parametrize("index", [3, -1])
def test_a_member_that_is_not_there_is_refused(index):
    with pytest.raises(InputError, match="with 3 members"):
        Member(members(), index)(ROWS)
