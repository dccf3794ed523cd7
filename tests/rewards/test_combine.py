import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Brightness, Ensemble, Function, Standardized, VisionReward, Weighted
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples([""] * 5, IMAGES)


def vision(heads):
    return VisionReward(tiny_tower(), heads=heads, width=8).eval()


def darkness(samples):
    return 1 - samples.outputs.flatten(1).mean(1)


def test_saved_constants_standardise_the_generators_scores():
    reward = vision(heads=2)
    with pytest.raises(InputError, match="above 0"):
        Standardized(reward)
    reward.calibrate(reward(SAMPLES))
    standardized = Standardized(reward)
    scores = standardized(SAMPLES)
    deviation = scores.std(correction=0)
    assert_close(scores.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    assert_close(deviation, torch.tensor(1.0), atol=1e-4, rtol=0)
    assert_close(standardized.members(SAMPLES).mean(1), scores)


def test_given_constants_go_before_saved_ones_and_are_asked_for_where_none_are():
    scores = Standardized(Brightness(), 0.5, 2.0)(SAMPLES)
    expected = (Brightness()(SAMPLES) - 0.5) / 2
    assert_close(scores, expected)
    with pytest.raises(InputError, match="Brightness has no constants"):
        Standardized(Brightness(), mean=0.5)
    with pytest.raises(InputError, match="above 0"):
        Standardized(Brightness(), 0.0, 0.0)


def test_weights_add_up():
    reward = Weighted([Brightness(), Function(darkness)], [2.0, 2.0])
    assert_close(reward(SAMPLES), torch.full((5,), 2.0))
    assert_close(reward.members(SAMPLES), torch.full((5, 1), 2.0))


def test_an_ensemble_has_all_columns_and_their_mean():
    heads = vision(heads=2)
    ensemble = Ensemble([heads, Brightness()])
    columns = [heads.members(SAMPLES), Brightness()(SAMPLES)[:, None]]
    expected = torch.cat(columns, dim=1)
    assert_close(ensemble.members(SAMPLES), expected)
    assert_close(ensemble(SAMPLES), expected.mean(1))


def test_wrong_counts_are_refused():
    with pytest.raises(InputError, match="1 rewards and 2 weights"):
        Weighted([Brightness()], [1.0, 2.0])
    with pytest.raises(InputError, match="at least one"):
        Ensemble([])


def test_the_fingerprint_of_a_sum_depends_on_its_weights():
    """What is cached under one weight must not be found under another."""
    parts = [Brightness(), Brightness()]
    one = fingerprint(Weighted(parts, [1.0, 0.5]))
    other = fingerprint(Weighted(parts, [1.0, -0.5]))
    assert one != other


def test_a_sums_columns_are_those_of_the_part_that_has_several():
    """So a guard still sees members disagree."""
    several = vision(heads=3)
    single = Brightness()
    total = Weighted([several, single], [2.0, -1.0])
    expected = 2 * several.members(SAMPLES) - single(SAMPLES)[:, None]
    assert torch.allclose(total.members(SAMPLES), expected, atol=1e-6)
    assert torch.allclose(total(SAMPLES), expected.mean(1), atol=1e-6)


def test_two_parts_with_several_columns_each_have_none_in_common():
    several = vision(heads=3)
    total = Weighted([several, several], [1.0, 1.0])
    assert total.members(SAMPLES).shape == (5, 1)
