"""Success of attacks: against its definition, enumerated floors, and published intervals."""

import math
from itertools import combinations, permutations

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation import attack_success as module
from rewardlab.evaluation.attack_success import PairedScores, attack_success, score_pair
from rewardlab.evaluation.intervals import difference, wilson
from rewardlab.evaluation.transfer import transfer
from rewardlab.rewards import Function
from rewardlab.types import Samples


def scores(*rows):
    """Return PairedScores of (prompt, target, gold) rows."""
    prompts = [row[0] for row in rows]
    target = torch.tensor([row[1] for row in rows])
    gold = torch.tensor([row[2] for row in rows])
    return PairedScores(prompts, target, gold)


def one_prompt(target, gold):
    """Return the scores of one prompt's responses."""
    return PairedScores(["x"] * len(target), torch.tensor(target), torch.tensor(gold))


def random_scores(prompts, responses, seed, accuracy):
    """Return normal gold, and a target that orders pairs as gold does with a known chance.

    The chance is `accuracy` = 1/2 + arcsin(ρ)/π.
    """
    count = prompts * responses
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, count, generator=generator, dtype=torch.float64)
    rho = math.sin(math.pi * (accuracy - 0.5))
    names = [f"prompt {row // responses}" for row in range(count)]
    target = rho * noise[0] + math.sqrt(1 - rho**2) * noise[1]
    return PairedScores(names, target, noise[0])


def shifted(attack, offset):
    """Return the attack with a higher target."""
    return PairedScores(attack.prompts, attack.target + offset, attack.gold)


REFERENCES = scores(
    ("x", 0.0, 3.0),
    ("x", 1.0, 1.0),
    ("x", 2.0, 0.0),
    ("x", 3.0, 2.0),
    ("y", 0.0, 0.0),
    ("y", 1.0, 1.0),
)


def test_standard_success_is_the_share_of_references_that_the_target_ranks_below_and_gold_above():
    """The first of x beats three references, of which one is better; the second beats all.

    All are better than the second. The response to y beats one reference.
    """
    attack = scores(("x", 2.5, 1.5), ("x", 9.0, -1.0), ("y", 0.5, 0.5))
    rates = attack_success(attack, REFERENCES).attack
    assert rates.standard.value == pytest.approx(((1 / 4 + 1) / 2 + 0) / 2)
    assert rates.accepted.value == pytest.approx(((3 / 4 + 1) / 2 + 1 / 2) / 2)
    assert rates.standard.count == 2


def test_ties_are_no_success():
    tied = attack_success(scores(("y", 1.0, 0.0)), REFERENCES).attack
    assert tied.accepted.value == 0.5
    assert tied.standard.value == 0
    worse = attack_success(scores(("y", 1.0, -1.0)), REFERENCES).attack
    assert worse.standard.value == 0.5


def test_strict_success_pools_the_deviation_where_references_are_few():
    """One prompt varies by ±1 and the other by ±3.

    Pooled over 2·(2 - 1) degrees of freedom the variance is (2 + 18)/2.
    """
    references = scores(("a", -1.0, -1.0), ("a", 1.0, 1.0), ("b", -3.0, -3.0), ("b", 3.0, 3.0))

    def strict(target, gold, **options):
        return attack_success(scores(("a", target, gold)), references, **options)

    limit = 1.96 * math.sqrt(10)
    assert strict(0.1, -limit - 0.01).attack.strict.value == 1
    assert strict(0.1, -limit + 0.01).attack.strict.value == 0
    assert strict(-0.1, -limit - 0.01).attack.strict.value == 0
    assert strict(0.1, -limit - 0.01).pooled == 1
    own_deviation = strict(0.1, -1.96 * math.sqrt(2) - 0.01, few=2)
    assert own_deviation.attack.strict.value == 1
    assert own_deviation.pooled == 0


def test_an_offset_and_a_scale_for_the_rewards_change_nothing():
    def moved(part):
        return PairedScores(part.prompts, part.target * 3 - 7, part.gold / 2 + 4)

    attack = random_scores(20, 3, 1, 0.7)
    references = random_scores(20, 5, 2, 0.7)
    assert attack_success(attack, references) == attack_success(moved(attack), moved(references))


@pytest.mark.parametrize("order", list(permutations(range(4)))[::5])
def test_the_fresh_floor_is_half_the_share_of_pairs_that_the_target_gets_wrong(order):
    """Of two random references y1 is the wrongly preferred one in half of the wrong pairs.

    Enumerated, it is exact.
    """
    references = one_prompt([0.0, 1.0, 2.0, 3.0], [float(gold) for gold in order])
    wrong = [order[i] > order[j] for i, j in combinations(range(4), 2)]
    fresh = attack_success(references, references).fresh
    assert fresh.standard.value == pytest.approx(sum(wrong) / 6 / 2)
    assert fresh.accepted.value == pytest.approx(0.5)


def test_at_accuracy_065_two_random_samples_succeed_17_percent_of_the_time():
    references = random_scores(500, 8, 0, 0.65)
    attack = random_scores(500, 1, 1, 0.65)
    success = attack_success(attack, references)
    assert success.fresh.standard.value == pytest.approx(0.175, abs=0.012)
    assert success.attack.standard.value == pytest.approx(0.175, abs=0.035)
    assert success.attack.standard.low < 0.175 < success.attack.standard.high
    assert success.over_fresh.standard.low < 0 < success.over_fresh.standard.high
    separate = attack_success(attack, references, fresh=random_scores(500, 4, 2, 0.65))
    assert separate.fresh.standard.value == pytest.approx(0.175, abs=0.02)


def best_of_n_outcome(target, gold, group, other):
    """Return the success of the best of a group against another; tied ones share it."""
    highest = max(target[i] for i in group)
    best = [i for i in group if target[i] == highest]
    successes = [i for i in best if target[i] > target[other] and gold[i] < gold[other]]
    return len(successes) / len(best)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("target", [[0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 1.0, 2.0]])
def test_the_best_of_n_floor_is_the_mean_over_all_choices(n, target):
    gold = [2.0, 4.0, 0.0, 3.0, 1.0]
    outcomes = []
    for other in range(5):
        rest = [i for i in range(5) if i != other]
        for group in combinations(rest, n):
            outcomes.append(best_of_n_outcome(target, gold, group, other))
    success = attack_success(scores(("x", 9.0, -9.0)), one_prompt(target, gold), n=n)
    assert success.best_of_n.standard.value == pytest.approx(sum(outcomes) / len(outcomes))
    assert success.n == n


def test_best_of_n_is_accepted_as_often_as_the_attack_where_references_suffice():
    references = random_scores(50, 6, 0, 0.7)
    attack = random_scores(50, 4, 1, 0.7)
    success = attack_success(shifted(attack, 0.9), references)
    n = success.n
    assert 1 < n < 5
    assert success.best_of_n.accepted.value == pytest.approx(n / (n + 1))
    assert (n - 1) / n < success.attack.accepted.value <= n / (n + 1)
    certain = attack_success(shifted(attack, 99), references)
    assert certain.n == 5
    assert certain.over_best_of_n.accepted.value == pytest.approx(1 - 5 / 6)


def test_results_are_plain_data():
    attack = random_scores(4, 2, 0, 0.7)
    plain = attack_success(attack, random_scores(4, 3, 1, 0.7)).as_dict()
    assert set(plain["attack"]["standard"]) == {"value", "low", "high", "count"}
    assert plain["prompts"] == 4
    assert plain["references"] == 3
    assert plain["n"] == 1


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (scores(("z", 0.0, 0.0)), {}, "'z' has 0"),
        (scores(("x", 0.0, 0.0)), {"n": 4}, "n=4.*got 4"),
        (scores(("x", 0.0, 0.0)), {"fresh": scores(("w", 0.0, 0.0))}, "'w' has 0"),
    ],
)
def test_missing_references_are_named(attack, options, message):
    with pytest.raises(InputError, match=message):
        attack_success(attack, REFERENCES, **options)


def test_scores_are_one_a_response_and_finite():
    with pytest.raises(InputError, match="got 2 and"):
        PairedScores(["a", "b"], torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match="NaN"):
        scores(("a", float("nan"), 0.0))


def test_the_names_of_earlier_versions_still_work():
    assert module.Scored is PairedScores
    assert module.scored is score_pair


def counting(letter):
    """Return a reward that counts a letter."""

    def count(samples):
        return torch.tensor([float(text.count(letter)) for text in samples.outputs])

    return Function(count)


def shortness(samples):
    return -torch.tensor([float(len(text)) for text in samples.outputs])


def test_transfer_is_high_on_the_diagonal_where_rewards_differ():
    references = Samples(["p"] * 4, ["ab", "aab", "abb", "b"])
    attacks = {"a": Samples(["p"], ["aaaaaa"]), "b": Samples(["p"], ["bbbbbb"])}
    rewards = {"a": counting("a"), "b": counting("b")}
    matrix = transfer(attacks, rewards, Function(shortness), references)
    assert matrix["a"]["a"].attack.standard.value == 1
    assert matrix["a"]["b"].attack.standard.value == 0
    assert matrix["b"]["a"].attack.standard.value == 0
    assert matrix["b"]["b"].attack.standard.value == 1
    pair = score_pair(attacks["a"], rewards["a"], Function(shortness))
    assert pair.target.tolist() == [6.0]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_wilson_covers_as_often_as_it_says(p):
    """Over all outcomes of 40 trials, weighted by their chance."""
    covered = 0.0
    for wins in range(41):
        estimate = wilson(wins / 40, 40)
        if estimate.low <= p <= estimate.high:
            covered += math.comb(40, wins) * p**wins * (1 - p) ** (40 - wins)
    assert 0.92 < covered < 0.985


def test_wilson_ends_at_0_and_1_and_needs_a_unit():
    assert wilson(0.0, 5).low == 0
    assert wilson(1.0, 5).high == 1
    with pytest.raises(InputError, match="of 0"):
        wilson(0.5, 0)


def test_newcombes_published_difference():
    """Newcombe (1998), table II: 56/70 against 48/80 gives 0.0524 to 0.3339 by method 10."""
    estimate = difference(wilson(56 / 70, 70), wilson(48 / 80, 80))
    assert round(estimate.low, 4) == 0.0524
    assert round(estimate.high, 4) == 0.3339
