"""How large an n: against enumeration, and on pools whose best n is known."""

from itertools import combinations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.evaluation import (
    best_of_n_curve,
    choose_n,
    familiar_n,
    soft_best_of_n_expected,
)
from rewardlab.metrics import best_of_poisson_expected, best_of_poisson_kl


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_monotone_proxy_takes_all_of_them():
    gold = noise(4, 12)
    chosen = choose_n(gold.exp(), gold)
    assert (chosen.n, chosen.low, chosen.high, chosen.largest) == (12, 12, 12, 12)
    assert chosen.gold == pytest.approx(gold.amax(1).mean().item())


def test_the_n_before_the_fall_is_found_with_an_interval_that_holds_it():
    """Gold rises with the proxy up to its 0.9 quantile and then falls: 1/(1 - q) outputs or so."""
    proxy = noise(60, 64)
    turn = 1.0
    gold = torch.where(proxy < turn, proxy, 2 * turn - 3 * (proxy - turn)) + noise(60, 64, seed=1)
    chosen = choose_n(proxy, gold)
    true = choose_n(proxy, torch.where(proxy < turn, proxy, 2 * turn - 3 * (proxy - turn)))
    assert 1 < true.n < 20
    assert chosen.low <= true.n <= chosen.high < 64
    wider = choose_n(proxy[:4], gold[:4])
    assert wider.high - wider.low > chosen.high - chosen.low


def test_few_ns_are_chosen_among_alone():
    gold = noise(3, 8)
    assert choose_n(gold, gold, [1, 2, 4]).n == 4
    assert choose_n(-gold, gold, [2, 4]).n == 2


def test_best_of_poisson_is_tabulated_as_the_metric_says_and_chosen_by_its_own_gold():
    proxy, gold = noise(3, 24), noise(3, 24, seed=1)
    rows = best_of_n_curve(proxy, gold, [1, 2, 4], draws="poisson")
    for row in rows:
        by_prompt = [
            best_of_poisson_expected(*columns, row["n"] - 1)
            for columns in zip(proxy, gold, strict=True)
        ]
        assert row["gold"] == pytest.approx(sum(by_prompt) / 3, abs=1e-6)
        assert row["kl"] == best_of_poisson_kl(row["n"] - 1)
    assert rows[0]["gold"] == pytest.approx(gold.mean().item(), abs=1e-6)
    drawn = choose_n(proxy, proxy, draws="poisson")
    assert drawn.n == drawn.largest < choose_n(proxy, proxy).n == 24, "24 may draw more than 24"
    with pytest.raises(InputError, match="draws more than the pool's N=24"):
        choose_n(proxy, gold, [20], draws="poisson")


@pytest.mark.parametrize("sharpness", [0.0, 0.7, 3.0])
def test_soft_best_of_n_is_unbiased_against_enumeration(sharpness):
    proxy, gold = noise(2, 6), noise(2, 6, seed=1)
    expected = torch.zeros(2, dtype=torch.float64)
    subsets = list(combinations(range(6), 3))
    for subset in subsets:
        places = list(subset)
        weights = (sharpness * proxy[:, places]).softmax(1)
        expected += (weights * gold[:, places]).sum(1) / len(subsets)
    found = soft_best_of_n_expected(proxy, gold, 3, sharpness, subsets=20000)
    assert_close(found, expected, atol=0.02, rtol=0)
    whole = (sharpness * proxy).softmax(1)
    exact = soft_best_of_n_expected(proxy, gold, 6, sharpness)
    assert_close(exact, (whole * gold).sum(1))


def test_soft_best_of_n_ends_at_the_mean_and_at_the_best():
    proxy, gold = noise(3, 5), noise(3, 5, seed=1)
    assert_close(soft_best_of_n_expected(proxy, gold, 5, 0.0), gold.mean(1))
    best = gold.gather(1, proxy.argmax(1, keepdim=True))[:, 0]
    assert_close(soft_best_of_n_expected(proxy, gold, 5, 1e6), best)


def test_doubt_that_has_nothing_to_do_with_the_proxy_never_leaves():
    found = familiar_n(noise(80, 64), noise(80, 64, seed=1), [1, 2, 4, 8, 16, 32])
    assert (found.n, found.leaves) == (32, None)
    assert found.shares[1] == pytest.approx(0.05, abs=0.005)
    assert found.shares[32] == pytest.approx(0.05, abs=0.03)


def test_doubt_that_rises_where_the_proxy_is_highest_leaves_before_the_end():
    proxy = noise(80, 64)
    doubt = (proxy - 1.5).clamp_min(0) + 0.3 * noise(80, 64, seed=1).abs()
    found = familiar_n(proxy, doubt, [1, 2, 4, 8, 16, 32])
    assert found.leaves is not None
    assert found.n < found.leaves < 32
    assert found.shares[32] > 0.3


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"tables of scores \[P, N\]"):
        choose_n(noise(3), noise(3))
    with pytest.raises(InputError, match="needs 2 or more; got 1"):
        familiar_n(noise(1, 4), noise(1, 4), [1])
    with pytest.raises(InputError, match="got n=5, N=4"):
        soft_best_of_n_expected(noise(2, 4), noise(2, 4), 5, 1.0)
