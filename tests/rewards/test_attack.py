import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.rewards import Ensemble, Function, Standardized
from rewardlab.rewards.attack import Attack, gated
from rewardlab.rewards.pessimism import Member, Pessimistic
from rewardlab.rewards.relative import Relative
from rewardlab.testing import RewardConformance
from rewardlab.types import Samples

TARGET = torch.tensor([3.0, 1.0, 0.5, -2.0])
WITNESS = torch.tensor([-4.0, 5.0, 7.0, -6.0])
ROWS = Samples([""] * 4, list("0123"))


def column(values):
    return Function(lambda samples: values[[int(text) for text in samples.outputs]])


def attack(**options):
    return Attack(column(TARGET), column(WITNESS), **{"threshold": 1.0, "penalty": 25.0, **options})


class TestAttack(RewardConformance):
    def make(self):
        return attack()

    def samples(self):
        return ROWS


def test_the_three_branches_are_the_authors():
    """Above: R1 - λ·R2. Equal: R1. Below: R1 - 25, without the witness."""
    assert attack(weight=2.0)(ROWS).tolist() == [11.0, 1.0, -24.5, -27.0]
    assert gated(TARGET, WITNESS, threshold=-9.0).tolist() == (TARGET - WITNESS).tolist()
    assert attack(weight=0.0, threshold=-9.0)(ROWS).tolist() == TARGET.tolist()


def test_an_infinite_witness_below_the_threshold_does_not_count():
    below = gated(torch.zeros(2), torch.tensor([float("inf"), float("nan")]), threshold=1.0)
    assert below.tolist() == [-10.0, -10.0]


def test_parts_combine_to_the_score():
    reward = attack()
    parts = reward.parts(ROWS)
    torch.testing.assert_close(parts, torch.stack([TARGET, WITNESS], 1))
    torch.testing.assert_close(reward.combine(parts, {}), reward(ROWS))
    torch.testing.assert_close(reward.members(ROWS), reward(ROWS)[:, None])


def test_too_long_and_unfinished_outputs_get_minus_a_penalty_instead_of_their_score():
    facts = {
        "length": torch.tensor([5, 6, 5, 9]),
        "finished": torch.tensor([True, True, False, False]),
    }
    rows = ROWS.with_facts(**facts)
    plain = attack()(rows).tolist()
    assert attack(max_length=5, length_penalty=20.0)(rows).tolist() == [
        plain[0],
        -20.0,
        plain[2],
        -20.0,
    ]
    assert attack(unfinished_penalty=3.0)(rows).tolist() == [plain[0], plain[1], -3.0, -3.0]
    both = attack(max_length=5, length_penalty=20.0, unfinished_penalty=30.0)(rows).tolist()
    assert both == [plain[0], -20.0, -30.0, -30.0]
    assert (
        attack(max_length=5, length_penalty=30.0, unfinished_penalty=20.0)(rows).tolist()[3]
        == -30.0
    )
    assert attack(max_length=5, length_penalty=0.0)(rows).tolist()[3] == 0.0


def test_a_missing_fact_is_named_only_if_a_penalty_reads_it():
    assert torch.isfinite(attack()(ROWS)).all()
    with pytest.raises(InputError, match=r'max_length=5 reads the fact "length".*no facts'):
        attack(max_length=5)(ROWS)
    with pytest.raises(
        InputError, match=r'unfinished_penalty=2 reads the fact "finished".*\[\'seed\'\]'
    ):
        attack(unfinished_penalty=2.0)(ROWS.with_facts(seed=torch.arange(4)))


def test_the_reference_threshold_is_the_mean_of_the_prompts_references():
    relative = Relative(column(TARGET), Samples(["", ""], ["0", "1"]))  # mean 2, deviation √2
    reward = Attack(relative, column(WITNESS), penalty=10.0)
    deviations = (TARGET - 2) / 2**0.5
    expected = torch.cat([deviations[:1] - WITNESS[:1], deviations[1:] - 10])
    torch.testing.assert_close(reward(ROWS), expected)
    torch.testing.assert_close(Attack(Ensemble([relative]), column(WITNESS))(ROWS), expected)
    for target in (
        column(TARGET),
        Standardized(column(TARGET), 0.0, 1.0),
        Pessimistic(relative, "mean"),
    ):
        with pytest.raises(InputError, match="Relative\\(target, references\\)"):
            Attack(target, column(WITNESS))


def test_a_witness_may_be_an_ensembles_mean_or_minimum_or_one_of_its_members():
    ensemble = Ensemble([column(WITNESS), column(-WITNESS), column(torch.zeros(4))])
    for witness, value in (
        (ensemble, 0.0),
        (Pessimistic(ensemble), -4.0),
        (Member(ensemble, 1), 4.0),
    ):
        torch.testing.assert_close(
            Attack(column(TARGET), witness, threshold=1.0)(ROWS)[0], torch.tensor(3.0 - value)
        )
