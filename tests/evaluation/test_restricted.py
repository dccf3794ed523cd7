"""Restricted means: by hand, by an area under a curve, and their paired interval."""

import numpy as np
import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation.restricted import first_fall, restricted_mean, restricted_ratio


def test_a_fall_is_the_first_window_below_the_start_less_the_margin():
    gold = torch.tensor([1.0, 0.8, 0.95, 0.85, 0.7])
    steps = [0, 10, 20, 30, 40]
    assert first_fall(steps, gold) == 10
    assert first_fall(steps, gold, margin=0.25) == 40
    assert first_fall(steps, gold, margin=0.2, window=2) == 40
    assert first_fall(steps, gold, margin=1.0) is None
    with pytest.raises(InputError, match="needs a gold for each"):
        first_fall(steps[1:], gold)
    with pytest.raises(InputError, match="window=9"):
        first_fall(steps, gold, window=9)


def test_the_restricted_mean_is_the_area_under_the_curve_of_what_stands():
    falls = [30.0, 70.0, None, 55.0]
    times = np.arange(0.5, 100.0)
    standing = [np.mean([fall is None or fall > time for fall in falls]) for time in times]
    assert restricted_mean(falls, 100.0) == pytest.approx(sum(standing))


def test_pairs_by_seed_narrow_the_interval_where_seeds_move_both():
    base = [20.0, 60.0, 100.0, 140.0, 180.0]
    doubled = [2 * fall for fall in base]
    paired = restricted_ratio(doubled, base, horizon=500)
    assert paired.value == pytest.approx(2)
    assert paired.low == pytest.approx(2)
    shuffled = restricted_ratio(doubled[::-1], base, horizon=500)
    assert shuffled.low < 1.7
    with pytest.raises(InputError, match="two seeds or more"):
        restricted_ratio([1.0], [1.0], horizon=2)
