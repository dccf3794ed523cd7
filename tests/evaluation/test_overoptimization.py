"""Over-optimization: curves and fits against enumeration and exact curves; stability of runs."""

import json
import math
from itertools import combinations

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation.overoptimization import best_of_n_curve, fit_overoptimization
from rewardlab.evaluation.stability import Stability, stability, stability_ratio


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_of_best(proxy, values, n):
    """Return the mean value of the best by proxy over all choices of n, for one prompt."""
    best = [max(group, key=lambda i: proxy[i]) for group in combinations(range(len(proxy)), n)]
    return float(values[best].mean())


def test_best_of_n_is_the_mean_over_all_subsets():
    proxy = noise(2, 6)
    gold = noise(2, 6, seed=1)
    rows = best_of_n_curve(proxy, gold, [1, 2, 3, 6])
    for row in rows:
        for name, values in (("proxy", proxy), ("gold", gold)):
            first = mean_of_best(proxy[0], values[0], row["n"])
            second = mean_of_best(proxy[1], values[1], row["n"])
            assert row[name] == pytest.approx((first + second) / 2, abs=1e-6)
    assert rows[0]["kl"] == rows[0]["distance"] == 0
    assert rows[2]["kl"] == pytest.approx(math.log(3) - 2 / 3)
    assert rows[2]["distance"] ** 2 == pytest.approx(rows[2]["kl"])
    assert all(row["gold_low"] <= row["gold"] <= row["gold_high"] for row in rows)


def test_the_default_ns_are_powers_of_two_up_to_half_and_one_prompt_has_no_interval():
    rows = best_of_n_curve(noise(1, 17), noise(1, 17))
    assert [row["n"] for row in rows] == [1, 2, 4, 8]
    assert "gold_low" not in rows[0]
    with pytest.raises(InputError, match="proxy and gold"):
        best_of_n_curve(noise(3), noise(3))


D = torch.linspace(0, 6, 25, dtype=torch.float64)


@pytest.mark.parametrize(
    ("form", "gold", "peak", "height"),
    [
        ("best_of_n", D * (2 - 0.25 * D), 4.0, 4.0),
        ("rl", D * 2 - 0.8 * torch.xlogy(D, D), math.exp(1.5), 0.8 * math.exp(1.5)),
    ],
)
def test_fits_recover_exact_curves(form, gold, peak, height):
    fit = fit_overoptimization(D, gold, form)
    assert fit.alpha == pytest.approx(2)
    assert fit.r2 == pytest.approx(1)
    assert fit.peak == pytest.approx(peak)
    assert fit.peak_gold == pytest.approx(height)
    assert fit(torch.tensor([peak])).item() == pytest.approx(height, rel=1e-6)
    near = fit(torch.tensor([peak - 0.05, peak + 0.05]))
    assert (near < height).all(), "the peak has to be a maximum"
    assert fit.intervals["peak"] == (pytest.approx(peak), pytest.approx(peak))
    assert fit.reached == 6


def test_intervals_over_seeds_hold_the_truth_and_the_fit_is_of_their_mean():
    mean = D * (2 - 0.25 * D)
    of_seed = 0.5 * noise(8) * D[:, None]
    gold = mean[:, None] + of_seed + 0.1 * noise(25, 8, seed=1)
    fit = fit_overoptimization(D, gold, "best_of_n")
    assert fit.alpha == pytest.approx(fit_overoptimization(D, gold.mean(1), "best_of_n").alpha)
    for name, truth in (("alpha", 2.0), ("beta", 0.25), ("peak", 4.0)):
        low, high = fit.intervals[name]
        assert low < truth < high
    again = fit_overoptimization(D, gold, "best_of_n")
    assert again == fit


def test_a_curve_that_only_rises_has_no_peak():
    fit = fit_overoptimization(D, D * (1 + 0.1 * D), "best_of_n")
    assert math.isinf(fit.peak)
    assert fit.as_dict()["peak"] is None
    json.dumps(fit.as_dict(), allow_nan=False)
    falling = fit_overoptimization(D, -D * (1 + 0.1 * D), "best_of_n")
    assert falling.peak == 0
    assert falling.peak_gold == 0
    constant = fit_overoptimization(D, torch.zeros(25), "rl").as_dict()
    assert constant["r2"] is None
    assert constant["peak"] == 0


@pytest.mark.parametrize(
    ("distance", "gold", "message"),
    [
        ([0.0, 1.0], [0.0, 1.0], "at least 3"),
        ([0.0, -1.0, 2.0], [0.0, 1.0, 2.0], "clamp"),
        ([0.0, 0.0, 2.0], [0.0, 1.0, 2.0], "two different"),
        ([0.0, 1.0, 2.0], [0.0, float("nan"), 2.0], "finite"),
    ],
)
def test_curves_that_cannot_be_fitted(distance, gold, message):
    with pytest.raises(InputError, match=message):
        fit_overoptimization(torch.tensor(distance), torch.tensor(gold), "rl")


STEPS = [0, 10, 20, 30, 40, 50]
KL = torch.tensor([0.0, 1.0, 2.0, 3.0, 2.5, 6.0])


def test_stability_is_the_first_reading_below_the_start():
    gold = torch.tensor([0.0, 0.5, 1.0, 0.5, -0.1, 3.0])
    run = stability(STEPS, gold, KL, at_kl=[0.5, 2.5, 7.0])
    assert run.step == 40
    assert not run.censored
    assert run.peak_gold == 3.0
    assert run.peak_step == 50
    assert run.gold_at_kl == {0.5: pytest.approx(0.25), 2.5: pytest.approx(0.75), 7.0: None}
    assert run.as_dict()["gold_at_kl"]["7"] is None


def test_a_run_that_never_falls_is_censored_at_its_last_step():
    constant = stability(STEPS, torch.zeros(6), KL, at_kl=[1.0])
    assert constant.step == 50
    assert constant.censored
    assert constant.peak_gold == 0


def test_a_window_bridges_a_single_dip_and_the_start_may_be_given():
    gold = torch.tensor([0.0, 1.0, -0.5, 1.0, -1.0, -1.0])
    assert stability(STEPS, gold, KL, at_kl=[1.0]).step == 20
    windowed = stability(STEPS, gold, KL, at_kl=[1.0], window=2)
    assert windowed.step == 50
    assert windowed.peak_gold == 0.5
    assert windowed.peak_step == 10
    assert stability(STEPS, gold, KL, at_kl=[1.0], start=0.2, window=2).step == 40
    assert stability(STEPS, gold, KL, at_kl=[1.0], start=0.6, window=2).step == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_kl": []}, "equal KL"),
        ({"at_kl": [1.0], "prompts": ["a"] * 5 + ["b"]}, "one fixed set"),
        ({"at_kl": [1.0], "window": 6}, "window=6"),
        ({"at_kl": [1.0], "steps": [0, 10, 10, 20, 30, 40]}, "rising"),
        ({"at_kl": [1.0], "kl": KL[:5]}, r"\[5\]"),
        ({"at_kl": [1.0], "kl": KL / 0}, "finite"),
    ],
)
def test_stability_refuses(options, message):
    arguments = {"steps": STEPS, "gold": torch.zeros(6), "kl": KL} | options
    with pytest.raises(InputError, match=message):
        stability(**arguments)


def run(step, last=100):
    """Return a run that fell at this step; None is one that did not by the last."""
    return Stability(
        step=last if step is None else step,
        censored=step is None,
        window=1,
        start=0.0,
        peak_gold=1.0,
        peak_step=0.0,
        gold_at_kl={1.0: 0.5},
    )


def runs(*steps):
    return [run(step) for step in steps]


def test_a_ratio_without_censored_runs_is_exact_and_turns_round():
    ratio = stability_ratio(runs(60, 90, 75, 80, 70), runs(20, 30, 25, 24, 26))
    assert ratio.value == 3.0
    assert ratio.bound == "exact"
    assert ratio.censored == (0, 0)
    assert 2 <= ratio.low < 3 < ratio.high <= 4.5
    turned = stability_ratio(runs(20, 30, 25, 24, 26), runs(60, 90, 75, 80, 70))
    assert turned.value == pytest.approx(1 / 3)


def test_a_few_censored_runs_open_the_interval_and_not_the_median():
    ratio = stability_ratio(runs(60, 90, None, 80, 70), runs(20, 30, 25, 24, 26))
    assert ratio.value == 80 / 25
    assert ratio.bound == "exact"
    assert ratio.censored == (1, 0)
    assert ratio.low > 1
    more = stability_ratio(runs(60, 90, None, None, 70), runs(20, 30, 25, 24, 26))
    assert math.isinf(more.high)


@pytest.mark.parametrize(
    ("first", "second", "value", "bound"),
    [
        (runs(None, None, 80), runs(20, 25, 30), 4.0, "at least"),
        (runs(50, 60, 70), runs(None, None, 30), 0.6, "at most"),
        (runs(None, None, 80), runs(None, None, 30), 1.0, "unknown"),
        (runs(None, 80), runs(20, 30), 90 / 25, "at least"),
    ],
)
def test_censored_medians_are_bounds(first, second, value, bound):
    ratio = stability_ratio(first, second)
    assert ratio.value == pytest.approx(value)
    assert ratio.bound == bound
    json.dumps(ratio.as_dict(), allow_nan=False)
    if bound != "at least":
        assert ratio.low == 0


def test_a_ratio_needs_seeds():
    with pytest.raises(InputError, match="two seeds"):
        stability_ratio(runs(10), runs(10, 20))
