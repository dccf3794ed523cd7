import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import Ensemble, Function
from rewardlab.rewards.member import Member
from rewardlab.rewards.pessimism import (
    Cautious,
    MemberScale,
    Pessimistic,
    SoftMinimum,
    scale_of,
    soft_minimum,
)
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


WIDE = SCORES.double()


class TestSoftMinimum(RewardConformance):
    def make(self):
        return SoftMinimum(members(), scale_of(SCORES, Samples(["a"] * 3, list("012"))))

    def samples(self):
        return ROWS

    def test_the_limits_are_the_mean_and_the_minimum(self):
        assert_close(soft_minimum(WIDE, 1e6), WIDE.mean(1), atol=1e-5, rtol=0)
        assert_close(soft_minimum(WIDE, 1e-6), WIDE.amin(1), atol=1e-5, rtol=0)

    def test_to_second_order_it_is_the_mean_less_the_variance_over_twice_beta(self):
        beta = 300.0
        expected = WIDE.mean(1) - WIDE.var(1, correction=0) / (2 * beta)
        assert_close(soft_minimum(WIDE, beta), expected, atol=2e-4, rtol=0)
        assert (WIDE.mean(1) - expected).amax() > 5e-3

    def test_it_rises_in_each_member_by_softmax_of_doubt(self):
        scores = WIDE.clone().requires_grad_()
        [slopes] = torch.autograd.grad(soft_minimum(scores, 0.7).sum(), scores)
        assert_close(slopes, (-WIDE / 0.7).softmax(1))

    def test_equal_members_give_their_value(self):
        equal = torch.tensor([[2.5] * 3, [-1.0] * 3])
        assert_close(soft_minimum(equal, 0.3), torch.tensor([2.5, -1.0]))

    def test_beta_means_the_same_for_members_of_any_scale_and_offset(self):
        references = Samples(["a", "a", "b"], list("012"))
        moved = SCORES * torch.tensor([10.0, 0.1, 3.0]) + torch.tensor([5.0, -7.0, 100.0])
        scores = SoftMinimum(members(), references, 0.5)(ROWS)
        assert_close(SoftMinimum(members(moved), references, 0.5)(ROWS), scores, atol=1e-4, rtol=0)
        centered = SCORES - SCORES.mean(0)
        deviations = (SCORES[0] - SCORES[1]).abs() / 2**0.5  # of prompt "a" alone
        assert_close(scores, soft_minimum(centered / deviations, 0.5))

    def test_what_cannot_work_is_refused(self):
        references = Samples(["a", "a", "b"], list("012"))
        with pytest.raises(InputError, match="above 0; got 0"):
            SoftMinimum(members(), references, 0.0)
        with pytest.raises(InputError, match="Function has one"):
            SoftMinimum(column(SCORES[:, 0]), references)
        with pytest.raises(InputError, match="measured with 3 members, and Ensemble has 2"):
            SoftMinimum(members(SCORES[:, :2]), scale_of(SCORES, references))(ROWS)


REFERENCES = Samples(["a", "a", "b", "b"], list("0123"))
DRAWN = torch.tensor([[0.0, 0.0], [4.0, 20.0], [4.0, 0.0], [0.0, 20.0]])  # means 2, 10


class TestCautious(RewardConformance):
    def make(self):
        return Cautious(members(DRAWN), REFERENCES)

    def samples(self):
        return REFERENCES

    @pytest.mark.parametrize(
        ("kind", "weight", "expected"),
        [
            ("mean", None, [0, 0.5, 1]),
            ("minimum", None, [0, -0.5, 1]),
            ("mean_minus_std", None, [0, 0.5 - 2**0.5, 1]),
            ("mean_minus_std", 2.0, [0, 0.5 - 2 * 2**0.5, 1]),
            ("mean_minus_variance", 0.5, [0, -0.5, 1]),
        ],
    )
    def test_members_count_in_their_own_deviations_within_a_prompt(self, kind, weight, expected):
        """The pooled deviations are √8 and √200; the rows lie 0 and 0, -0.5 and 1.5, 1 and 1 of
        them above the means.
        """
        z = torch.tensor([[0.0, 0.0], [-0.5, 1.5], [1.0, 1.0]])
        rows = torch.tensor([2.0, 10.0]) + z * torch.tensor([8.0, 200.0]).sqrt()
        scale = scale_of(DRAWN, REFERENCES)
        scores = Cautious(members(rows), scale, kind, weight)(ROWS)
        assert_close(scores, torch.tensor(expected).float(), atol=1e-6, rtol=0)

    def test_a_rise_of_one_member_is_punished_by_the_spread_alone(self):
        scale = MemberScale(torch.zeros(2), torch.ones(2))
        rows = members(torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]))
        assert Cautious(rows, scale)(ROWS).diff().lt(0).all()
        assert Cautious(rows, scale, "minimum")(ROWS).diff().eq(0).all()
        assert SoftMinimum(rows, scale)(ROWS).diff().gt(0).all()

    def test_what_cannot_work_is_refused(self):
        with pytest.raises(InputError, match=r"only there; got kind='minimum' and weight=1"):
            Cautious(members(DRAWN), REFERENCES, "minimum", 1.0)
        with pytest.raises(InputError, match="Cautious compares two or more members; Function has"):
            Cautious(column(DRAWN[:, 0]), REFERENCES)
        scale = scale_of(DRAWN, REFERENCES)
        with pytest.raises(InputError, match="measured with 2 members, and Ensemble has 3"):
            Cautious(members(), scale)(ROWS)
