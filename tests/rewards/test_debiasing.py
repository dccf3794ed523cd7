"""Length calibration: against regressions by numpy, and what it leaves of rewards that are known."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import (
    Brightness,
    Debiased,
    Ensemble,
    Fact,
    Function,
    Length,
    Repetition,
    load_reward,
)
from rewardlab.rewards.debiasing import local_regression
from rewardlab.types import Samples


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts(counts):
    return Samples(["p"] * len(counts), ["a " * int(count) for count in counts])


def worth(samples):
    """Return what has nothing to do with length: whether the prompt's fact is odd."""
    return samples.facts["worth"].float()


def balanced(lengths=12, of_each=6):
    """Return texts of each length, half of each worth 1 and half -1."""
    counts = torch.arange(1, lengths + 1).repeat_interleave(of_each)
    facts = {"worth": torch.tensor([1, -1]).repeat(len(counts) // 2)}
    return Samples(["p"] * len(counts), ["a " * int(count) for count in counts], facts)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_local_value_is_that_of_a_weighted_line_by_numpy(share):
    x = draws(40).exp()
    y = draws(40, 2, seed=1)
    curve = local_regression(x, y, share)
    for knot, value in zip(curve.knots.numpy(), curve.values.numpy(), strict=True):
        distance = np.abs(x.numpy() - knot)
        width = np.sort(distance)[math.ceil(share * 40) - 1]
        weights = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
        for member in range(2):
            line = np.polyfit(x.numpy(), y[:, member].numpy(), 1, w=np.sqrt(weights))
            assert value[member] == pytest.approx(np.polyval(line, knot), abs=1e-8)


FEW = [2, 3, 3, 4, 6, 7, 9, 9, 9, 12]
ASKED = [0, 1, 2, 5, 9, 12, 40]


@pytest.mark.parametrize(
    ("beyond", "slope", "expected"),
    [
        ("line", 2, [0, 0, 0, 0, 0, 0, 0]),
        ("line", -2, [0, 0, 0, 0, 0, 0, 0]),
        ("lower", 2, [-4, -2, 0, 0, 0, 0, 0]),
        ("lower", -2, [0, 0, 0, 0, 0, 0, -56]),
        ("constant", 2, [-4, -2, 0, 0, 0, 0, 56]),
        ("constant", -2, [4, 2, 0, 0, 0, 0, -56]),
    ],
)
def test_a_reward_that_is_only_length_becomes_0_and_nothing_is_gained_beyond(
    beyond, slope, expected
):
    """By default, "lower"; a constant leaves beyond the range what the reward itself likes."""
    reward = Function(lambda samples: 5 + slope * Length()(samples))
    scores = Debiased(reward, texts(FEW), beyond=beyond)(texts(ASKED))
    assert_close(scores, torch.tensor(expected).float(), atol=1e-4, rtol=0)
    if beyond == "lower":
        assert torch.equal(Debiased(reward, texts(FEW))(texts(ASKED)), scores)


def test_a_policy_that_grows_longer_than_the_references_is_not_paid_by_the_calibration():
    """The reward rises to 8 words and falls to 12, as where long answers are the worse ones, and no
    longer looks at length beyond. The line through the last tenth would pay a point a word.
    """

    def humped(samples):
        words = Length()(samples).clamp_max(12)
        return torch.where(words < 8, words, 16 - words)

    references, longer = balanced(), texts(range(12, 60))
    reward = Function(humped)
    paid = Debiased(reward, references, share=0.2, beyond="line")(longer)
    scores = Debiased(reward, references, share=0.2)(longer)
    assert paid[-1] - paid[0] > 40
    assert_close(scores, scores[:1].expand(48), atol=1e-5, rtol=0)


def test_a_folder_whose_curves_go_on_along_lines_still_does(tmp_path):
    """As those did that were written before `beyond`: the slopes stand in the folder."""
    reward = Debiased(Repetition(n=1), balanced(), beyond="line")
    beyond = texts([0, 50])
    slopes = [curve.slopes.clone() for curve in reward.curves]
    slopes[0][1] = -1.0
    reward.curves[0].slopes.copy_(slopes[0])
    reward.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert loaded.curves[0].slopes[1].item() == -1.0
    assert torch.equal(loaded(beyond), reward(beyond))
    with pytest.raises(InputError, match=r'"line" or "constant"; got .flat.'):
        Debiased(Repetition(), balanced(), beyond="flat")


def test_a_reward_that_ignores_length_loses_its_mean_alone():
    references = balanced()
    debiased = Debiased(Function(lambda samples: 3 + worth(samples)), references)
    assert_close(debiased(references), worth(references), atol=1e-5, rtol=0)


def test_beyond_the_references_the_line_through_the_last_tenth_goes_on():
    x = torch.arange(101.0).double()
    curve = local_regression(x, (x.square() / 100)[:, None], share=0.05)
    tail = slice(90, None)
    slope = np.polyfit(x[tail].numpy(), curve.values[tail, 0].numpy(), 1)[0]
    beyond = curve(torch.tensor([100.0, 160.0]))[:, 0]
    assert (beyond[1] - beyond[0]).item() == pytest.approx(60 * slope)
    assert 1.8 < slope < 2


def test_two_measures_are_taken_out_together():
    """Length and repetition that go together: one after the other would leave some of both."""
    counts = draws(200).abs().mul(4).ceil().add(2).long().tolist()
    repeats = draws(200, seed=1)
    outputs = []
    for count, draw in zip(counts, repeats, strict=True):
        kept = max(1, int(count * (0.3 if draw > 0 else 1.0)))
        outputs.append(" ".join([f"w{place % kept}" for place in range(count)]))
    samples = Samples(["p"] * 200, outputs)
    measures = [Length(), Repetition(n=1)]
    reward = Function(lambda samples: 2 * Length()(samples) - 7 * Repetition(n=1)(samples))
    both = Debiased(reward, samples, measures, share=0.9)(samples)
    one = Debiased(reward, samples, [Length()], share=0.9)(samples)
    assert both.abs().max() < 0.05 < 0.3 < one.abs().max()


def test_each_member_has_its_own_curve_and_the_folder_gives_all_back(tmp_path):
    ensemble = Ensemble([Length(), Repetition(n=1)])
    references = Samples(["p"] * 4, ["a", "a a b", "a b c d d", "b b b b b b"])
    debiased = Debiased(ensemble, references, share=1.0).eval()
    for place, member in enumerate(ensemble.rewards):
        alone = Debiased(member, references, share=1.0)(references)
        assert_close(debiased.members(references)[:, place], alone)
    debiased.save_pretrained(tmp_path / "reward")
    assert torch.equal(load_reward(tmp_path / "reward")(references), debiased(references))
    with pytest.raises(InputError, match="fitted to 2 members, and Length has 1"):
        Debiased(Length(), list(debiased.curves))(references)


def test_a_fact_and_pictures_are_measured_too():
    facts = {"length": torch.tensor([3, 5, 9, 11])}
    counted = Samples(["p"] * 4, ["a"] * 4, facts)
    by_fact = Debiased(Fact("length"), counted, [Fact("length")], share=1.0)
    assert_close(by_fact(counted), torch.zeros(4), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"Fact\('length'\) reads one number a sample"):
        by_fact(Samples(["p"], ["a"]))
    pictures = Samples([""] * 9, torch.rand(9, 3, 4, 4))
    assert_close(
        Debiased(Brightness(), pictures, [Brightness()])(pictures),
        torch.zeros(9),
        atol=1e-5,
        rtol=0,
    )


def test_references_of_one_length_and_shares_of_nothing_are_refused():
    with pytest.raises(InputError, match="All 3 references measure 4, so nothing"):
        Debiased(Repetition(), texts([4, 4, 4]))
    with pytest.raises(InputError, match=r"in \(0, 1\]; got share=0"):
        Debiased(Repetition(), texts([4, 5, 4]), share=0.0)
