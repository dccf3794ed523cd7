import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import Ensemble, Function, Standardized
from rewardlab.rewards.attack import Attack, gated
from rewardlab.rewards.member import Member
from rewardlab.rewards.pessimism import Pessimistic
from rewardlab.rewards.relative import Relative
from rewardlab.testing import RewardConformance
from rewardlab.types import Samples

TARGET = torch.tensor([3.0, 1.0, 0.5, -2.0])
WITNESS = torch.tensor([-4.0, 5.0, 7.0, -6.0])
ROWS = Samples([""] * 4, list("0123"))


def column(values):
    """A reward whose score of row "i" is the i-th value."""

    def looked_up(samples):
        rows = [int(text) for text in samples.outputs]
        return values[rows]

    return Function(looked_up)


def attack(**options):
    settings = {"threshold": 1.0, "penalty": 25.0, **options}
    return Attack(column(TARGET), column(WITNESS), **settings)


class TestAttack(RewardConformance):
    def make(self):
        return attack()

    def samples(self):
        return ROWS


def test_the_three_branches_are_the_authors():
    """Above: R1 - λ·R2. Equal: R1. Below: R1 - 25, without the witness."""
    assert attack(weight=2.0)(ROWS).tolist() == [11.0, 1.0, -24.5, -27.0]
    assert attack(weight=0.0, threshold=-9.0)(ROWS).tolist() == TARGET.tolist()
    above = gated(TARGET, WITNESS, threshold=-9.0)
    assert above.tolist() == (TARGET - WITNESS).tolist()


def test_an_infinite_witness_below_the_threshold_does_not_count():
    witness = torch.tensor([float("inf"), float("nan")])
    below = gated(torch.zeros(2), witness, threshold=1.0)
    assert below.tolist() == [-10.0, -10.0]


def test_parts_combine_to_the_score():
    reward = attack()
    parts = reward.parts(ROWS)
    scores = reward(ROWS)
    assert_close(parts, torch.stack([TARGET, WITNESS], 1))
    assert_close(reward.combine(parts, {}), scores)
    assert_close(reward.members(ROWS), scores[:, None])


class TestPenalties:
    rows = ROWS.with_facts(
        length=torch.tensor([5, 6, 5, 9]),
        finished=torch.tensor([True, True, False, False]),
    )
    plain = attack()(rows).tolist()

    def scores(self, **options):
        return attack(**options)(self.rows).tolist()

    def test_too_long_outputs_get_minus_the_penalty_instead_of_their_score(self):
        scores = self.scores(max_length=5, length_penalty=20.0)
        assert scores == [self.plain[0], -20.0, self.plain[2], -20.0]
        assert self.scores(max_length=5, length_penalty=0.0)[3] == 0.0

    def test_unfinished_outputs_get_minus_the_penalty_instead_of_their_score(self):
        scores = self.scores(unfinished_penalty=3.0)
        assert scores == [self.plain[0], self.plain[1], -3.0, -3.0]

    def test_of_two_penalties_the_larger_counts(self):
        scores = self.scores(max_length=5, length_penalty=20.0, unfinished_penalty=30.0)
        assert scores == [self.plain[0], -20.0, -30.0, -30.0]
        scores = self.scores(max_length=5, length_penalty=30.0, unfinished_penalty=20.0)
        assert scores[3] == -30.0


def test_a_missing_fact_is_named_only_if_a_penalty_reads_it():
    assert torch.isfinite(attack()(ROWS)).all()
    with pytest.raises(InputError, match=r'max_length=5 reads the fact "length".*no facts'):
        attack(max_length=5)(ROWS)
    message = r'unfinished_penalty=2 reads the fact "finished".*\[\'seed\'\]'
    with pytest.raises(InputError, match=message):
        attack(unfinished_penalty=2.0)(ROWS.with_facts(seed=torch.arange(4)))


class TestReferenceThreshold:
    relative = Relative(column(TARGET), Samples(["", ""], ["0", "1"]))  # mean 2, deviation √2

    def test_it_is_the_mean_of_the_prompts_references(self):
        deviations = (TARGET - 2) / 2**0.5
        expected = torch.cat([deviations[:1] - WITNESS[:1], deviations[1:] - 10])
        reward = Attack(self.relative, column(WITNESS), penalty=10.0)
        assert_close(reward(ROWS), expected)
        reward = Attack(Ensemble([self.relative]), column(WITNESS))
        assert_close(reward(ROWS), expected)

    def test_it_needs_a_target_that_knows_references(self):
        plain = column(TARGET)
        standardized = Standardized(column(TARGET), 0.0, 1.0)
        pessimistic = Pessimistic(self.relative, "mean")
        for target in (plain, standardized, pessimistic):
            with pytest.raises(InputError, match="Relative\\(target, references\\)"):
                Attack(target, column(WITNESS))


def test_a_witness_may_be_an_ensembles_mean_or_minimum_or_one_of_its_members():
    ensemble = Ensemble([column(WITNESS), column(-WITNESS), column(torch.zeros(4))])
    expected = {ensemble: 0.0, Pessimistic(ensemble): -4.0, Member(ensemble, 1): 4.0}
    for witness, value in expected.items():
        scores = Attack(column(TARGET), witness, threshold=1.0)(ROWS)
        assert_close(scores[0], torch.tensor(3.0 - value))
