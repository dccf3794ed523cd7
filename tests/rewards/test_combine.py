import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.rewards import (
    Brightness,
    Ensemble,
    Function,
    Novelty,
    Standardized,
    VisionReward,
    Weighted,
    load_reward,
)
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

SAMPLES = Samples([""] * 5, torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def test_saved_constants_standardise_the_generators_scores():
    reward = VisionReward(tiny_tower(), heads=2, width=8).eval()
    with pytest.raises(InputError, match="above 0"):
        Standardized(reward)
    reward.calibrate(reward(SAMPLES))
    scores = Standardized(reward)(SAMPLES)
    torch.testing.assert_close(scores.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(Standardized(reward).members(SAMPLES).mean(1), scores)


def test_given_constants_go_before_saved_ones_and_are_asked_for_where_none_are():
    torch.testing.assert_close(
        Standardized(Brightness(), 0.5, 2.0)(SAMPLES), (Brightness()(SAMPLES) - 0.5) / 2
    )
    with pytest.raises(InputError, match="Brightness has no constants"):
        Standardized(Brightness(), mean=0.5)
    with pytest.raises(InputError, match="above 0"):
        Standardized(Brightness(), 0.0, 0.0)


def test_weights_add_up():
    dark = Function(lambda samples: 1 - samples.outputs.flatten(1).mean(1))
    reward = Weighted([Brightness(), dark], [2.0, 2.0])
    torch.testing.assert_close(reward(SAMPLES), torch.full((5,), 2.0))
    torch.testing.assert_close(reward.members(SAMPLES), torch.full((5, 1), 2.0))


def test_an_ensemble_has_all_columns_and_their_mean():
    heads = VisionReward(tiny_tower(), heads=2, width=8).eval()
    ensemble = Ensemble([heads, Brightness()])
    expected = torch.cat([heads.members(SAMPLES), Brightness()(SAMPLES)[:, None]], dim=1)
    torch.testing.assert_close(ensemble.members(SAMPLES), expected)
    torch.testing.assert_close(ensemble(SAMPLES), expected.mean(1))


def test_wrong_counts_are_refused():
    with pytest.raises(InputError, match="1 rewards and 2 weights"):
        Weighted([Brightness()], [1.0, 2.0])
    with pytest.raises(InputError, match="at least one"):
        Ensemble([])


def test_the_fingerprint_of_a_sum_depends_on_its_weights():
    """What is cached under one weight must not be found under another."""
    one, other = (
        fingerprint(Weighted([Brightness(), Brightness()], [1.0, weight])) for weight in (0.5, -0.5)
    )
    assert one != other


def test_a_sums_columns_are_those_of_the_part_that_has_several():
    """So a guard still sees members disagree; two parts with several columns each have none in
    common.
    """
    samples = Samples(
        [""] * 3, torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    )
    several, single = VisionReward(tiny_tower(), heads=3, width=8).eval(), Brightness()
    total = Weighted([several, single], [2.0, -1.0])
    expected = 2 * several.members(samples) - single(samples)[:, None]
    assert torch.allclose(total.members(samples), expected, atol=1e-6)
    assert torch.allclose(total(samples), expected.mean(1), atol=1e-6)
    assert Weighted([several, several], [1.0, 1.0]).members(samples).shape == (3, 1)


def test_what_a_policy_was_trained_on_comes_back_from_its_folder(tmp_path):
    """A standardised reward less the distance from references, as Adv-RM's rounds export it."""
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = Samples([""] * 40, images)
    seen = VisionReward(tiny_tower(), heads=2, width=8).eval()
    whole = Weighted([Standardized(seen, 0.3, 2.0), Novelty(seen, samples[:30])], [1.0, 0.7]).eval()
    whole.save_pretrained(tmp_path / "reward")
    again = load_reward(tmp_path / "reward")
    assert torch.equal(again(samples[30:]), whole(samples[30:]))
    assert fingerprint(again) == fingerprint(whole)


def test_a_sum_with_a_part_that_is_code_alone_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="Brightness cannot be saved"):
        Weighted([Brightness(), Brightness()], [1.0, 1.0]).save_pretrained(tmp_path / "reward")
    assert not (tmp_path / "reward").exists()
