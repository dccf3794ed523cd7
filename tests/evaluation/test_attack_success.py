import math
from itertools import combinations, permutations

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation.attack_success import Scored, attack_success, scored
from rewardlab.evaluation.intervals import difference, wilson
from rewardlab.evaluation.transfer import transfer
from rewardlab.rewards import Function
from rewardlab.types import Samples


def columns(*rows):
    """Scored from (prompt, target, gold) rows."""
    prompts, target, gold = zip(*rows, strict=True)
    return Scored(list(prompts), torch.tensor(target), torch.tensor(gold))


def drawn(prompts, each, seed, accuracy):
    """Normal gold, and a target that orders pairs as gold does with a chance of `accuracy` = 1/2 +
    arcsin(ρ)/π.
    """
    noise = torch.randn(
        2, prompts * each, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    rho = math.sin(math.pi * (accuracy - 0.5))
    names = [f"prompt {row // each}" for row in range(prompts * each)]
    return Scored(names, rho * noise[0] + math.sqrt(1 - rho**2) * noise[1], noise[0])


REFERENCES = columns(
    *[("x", float(i), float(gold)) for i, gold in enumerate([3, 1, 0, 2])],
    ("y", 0.0, 0.0),
    ("y", 1.0, 1.0),
)


def test_standard_success_is_the_share_of_references_that_the_target_ranks_below_and_gold_above():
    found = attack_success(
        columns(("x", 2.5, 1.5), ("x", 9.0, -1.0), ("y", 0.5, 0.5)), REFERENCES
    ).attack
    # x, first: target beats references 0, 1, 2 of which gold 3 is above 1.5; second: beats all,
    # gold below all; y: beats one
    assert found.standard.value == pytest.approx(((1 / 4 + 1) / 2 + 0) / 2)
    assert found.accepted.value == pytest.approx(((3 / 4 + 1) / 2 + 1 / 2) / 2)
    assert found.standard.count == 2


def test_ties_are_no_success():
    found = attack_success(columns(("y", 1.0, 0.0)), REFERENCES).attack
    assert (found.accepted.value, found.standard.value) == (0.5, 0)
    assert attack_success(columns(("y", 1.0, -1.0)), REFERENCES).attack.standard.value == 0.5


def test_strict_success_pools_the_deviation_where_references_are_few():
    """One prompt varies by ±1 and the other by ±3: pooled over 2·(2 - 1) degrees of freedom the
    variance is (2 + 18)/2.
    """
    references = columns(("a", -1.0, -1.0), ("a", 1.0, 1.0), ("b", -3.0, -3.0), ("b", 3.0, 3.0))
    limit = 1.96 * math.sqrt(10)
    below, above = -limit - 0.01, -limit + 0.01
    assert attack_success(columns(("a", 0.1, below)), references).attack.strict.value == 1
    assert attack_success(columns(("a", 0.1, above)), references).attack.strict.value == 0
    assert attack_success(columns(("a", -0.1, below)), references).attack.strict.value == 0
    own = attack_success(columns(("a", 0.1, -1.96 * math.sqrt(2) - 0.01)), references, few=2)
    assert own.attack.strict.value == 1
    assert (own.pooled, attack_success(columns(("a", 0.1, below)), references).pooled) == (0, 1)


def test_an_offset_and_a_scale_for_the_rewards_change_nothing():
    attack, references = drawn(20, 3, 1, 0.7), drawn(20, 5, 2, 0.7)
    moved = [
        Scored(each.prompts, each.target * 3 - 7, each.gold / 2 + 4)
        for each in (attack, references)
    ]
    assert attack_success(attack, references) == attack_success(*moved)


@pytest.mark.parametrize("order", list(permutations(range(4)))[::5])
def test_the_fresh_floor_is_half_the_share_of_pairs_that_the_target_gets_wrong(order):
    """Of two random references y1 is the wrongly preferred one in half of the wrong pairs:
    enumerated, it is exact.
    """
    references = columns(*[("x", float(i), float(gold)) for i, gold in enumerate(order)])
    wrong = sum(order[i] > order[j] for i, j in combinations(range(4), 2)) / 6
    assert attack_success(references, references).fresh.standard.value == pytest.approx(wrong / 2)
    assert attack_success(references, references).fresh.accepted.value == pytest.approx(0.5)


def test_at_accuracy_065_two_random_samples_succeed_17_percent_of_the_time():
    references = drawn(500, 8, 0, 0.65)
    found = attack_success(drawn(500, 1, 1, 0.65), references)
    assert found.fresh.standard.value == pytest.approx(0.175, abs=0.012)
    assert found.attack.standard.value == pytest.approx(0.175, abs=0.035)
    assert found.attack.standard.low < 0.175 < found.attack.standard.high
    assert found.over_fresh.standard.low < 0 < found.over_fresh.standard.high
    separate = attack_success(drawn(500, 1, 1, 0.65), references, fresh=drawn(500, 4, 2, 0.65))
    assert separate.fresh.standard.value == pytest.approx(0.175, abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("target", [[0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 1.0, 2.0]])
def test_the_best_of_n_floor_is_the_mean_over_all_choices(n, target):
    gold = [2.0, 4.0, 0.0, 3.0, 1.0]
    references = columns(
        *[("x", first, second) for first, second in zip(target, gold, strict=True)]
    )
    outcomes = []
    for other in range(5):
        for group in combinations([i for i in range(5) if i != other], n):
            best = [i for i in group if target[i] == max(target[j] for j in group)]
            outcomes.append(
                sum(target[i] > target[other] and gold[i] < gold[other] for i in best) / len(best)
            )
    found = attack_success(columns(("x", 9.0, -9.0)), references, n=n)
    assert found.best_of_n.standard.value == pytest.approx(sum(outcomes) / len(outcomes))
    assert found.n == n


def test_best_of_n_is_accepted_as_often_as_the_attack_where_references_suffice():
    references = drawn(50, 6, 0, 0.7)
    attack = drawn(50, 4, 1, 0.7)
    shifted = Scored(attack.prompts, attack.target + 0.9, attack.gold)
    found = attack_success(shifted, references)
    assert 1 < found.n < 5
    assert found.best_of_n.accepted.value == pytest.approx(found.n / (found.n + 1))
    assert (found.n - 1) / found.n < found.attack.accepted.value <= found.n / (found.n + 1)
    certain = attack_success(Scored(attack.prompts, attack.target + 99, attack.gold), references)
    assert certain.n == 5
    assert certain.over_best_of_n.accepted.value == pytest.approx(1 - 5 / 6)


def test_results_are_plain_data():
    found = attack_success(drawn(4, 2, 0, 0.7), drawn(4, 3, 1, 0.7)).as_dict()
    assert set(found["attack"]["standard"]) == {"value", "low", "high", "count"}
    assert (found["prompts"], found["references"], found["n"]) == (4, 3, 1)


@pytest.mark.parametrize(
    ("attack", "options", "words"),
    [
        (columns(("z", 0.0, 0.0)), {}, "'z' has 0"),
        (columns(("x", 0.0, 0.0)), {"n": 4}, "n=4.*got 4"),
        (columns(("x", 0.0, 0.0)), {"fresh": columns(("w", 0.0, 0.0))}, "'w' has 0"),
    ],
)
def test_missing_references_are_named(attack, options, words):
    with pytest.raises(InputError, match=words):
        attack_success(attack, REFERENCES, **options)


def test_scores_are_one_a_response_and_finite():
    with pytest.raises(InputError, match="got 2 and"):
        Scored(["a", "b"], torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match="NaN"):
        columns(("a", float("nan"), 0.0))


def letters(letter):
    return Function(
        lambda samples: torch.tensor([float(text.count(letter)) for text in samples.outputs])
    )


def test_transfer_is_high_on_the_diagonal_where_rewards_differ():
    references = Samples(["p"] * 4, ["ab", "aab", "abb", "b"])
    attacks = {"a": Samples(["p"], ["aaaaaa"]), "b": Samples(["p"], ["bbbbbb"])}
    gold = Function(lambda samples: -torch.tensor([float(len(text)) for text in samples.outputs]))
    matrix = transfer(attacks, {"a": letters("a"), "b": letters("b")}, gold, references)
    rates = [[matrix[one][other].attack.standard.value for other in "ab"] for one in "ab"]
    assert rates == [[1, 0], [0, 1]]
    assert scored(attacks["a"], letters("a"), gold).target.tolist() == [6.0]


def test_wilson_covers_as_often_as_it_says():
    """Over all outcomes of 40 trials, weighted by their chance."""
    for p in (0.1, 0.5, 0.93):
        covered = 0.0
        for wins in range(41):
            estimate = wilson(wins / 40, 40)
            covered += (
                (estimate.low <= p <= estimate.high)
                * math.comb(40, wins)
                * p**wins
                * (1 - p) ** (40 - wins)
            )
        assert 0.92 < covered < 0.985
    assert wilson(0.0, 5).low == 0
    assert wilson(1.0, 5).high == 1
    with pytest.raises(InputError, match="of 0"):
        wilson(0.5, 0)


def test_newcombes_published_difference():
    """Newcombe (1998), table II: 56/70 against 48/80 gives 0.0524 to 0.3339 by method 10."""
    found = difference(wilson(56 / 70, 70), wilson(48 / 80, 80))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
