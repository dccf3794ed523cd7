"""Figures about a policy: fixed prompts and seeds, means with intervals, and distances."""

import pytest
import torch

from rewardlab import DiffusionPolicy
from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation
from rewardlab.evaluation.evaluation import distance_figures, mean_figure, separation_figures
from rewardlab.evaluation.features import features_of
from rewardlab.evaluation.prompts import in_turn
from rewardlab.metrics import auc, kernel_distance
from rewardlab.policies import CallableGenerator
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Brightness, FrozenFeatures, Reward
from rewardlab.testing import tiny_diffusion
from rewardlab.types import Samples

PROMPTS = ["zero", "one"]


class Eyes(Reward, FrozenFeatures):
    """Pixels as features."""

    def features(self, samples):
        return samples.outputs.flatten(1)

    def forward(self, samples):
        return samples.outputs.mean((1, 2, 3))


def images(count=60, level=0.5, seed=0, width=4):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, width, width, generator=generator)
    return Samples([""] * count, (level + 0.1 * noise).clamp(0, 1))


def judge_by_eyes(samples, real):
    return Evaluation(judges={"eyes": Eyes()}).judge(samples, real)


def test_the_same_outputs_are_drawn_every_time_the_prompts_in_turn():
    sampler = Sampler(steps=2)
    policy = DiffusionPolicy(tiny_diffusion(), labels=PROMPTS, sampler=sampler).eval()
    first = Evaluation(samples=5).draw(policy, PROMPTS)
    again = Evaluation(samples=5).draw(policy, PROMPTS)
    other = Evaluation(samples=5, seed=1).draw(policy, PROMPTS)
    assert list(first.prompts) == ["zero", "one", "zero", "one", "zero"]
    assert torch.equal(first.outputs, again.outputs)
    assert not torch.equal(first.outputs, other.outputs)


def test_whatever_draws_can_be_judged():
    policy = CallableGenerator(lambda prompts, seeds: [prompt.upper() for prompt in prompts])
    assert Evaluation(samples=3).draw(policy, PROMPTS).outputs == ["ZERO", "ONE", "ZERO"]


def test_prompts_come_in_turn():
    assert in_turn(PROMPTS, 3) == ["zero", "one", "zero"]
    assert in_turn(PROMPTS, 1) == ["zero"]
    assert in_turn(PROMPTS, 0) == []


def test_each_judge_gives_its_mean_within_its_interval():
    evaluation = Evaluation(judges={"ink": Brightness(), "eyes": Eyes()})
    figures = evaluation.judge(images(), images(seed=1))
    assert set(figures) == {"ink", "eyes", "distance", "real_distance", "diversity"}
    assert figures["ink"]["mean"] == pytest.approx(images().outputs.mean().item(), abs=1e-6)
    for name in ("ink", "distance"):
        assert figures[name]["low"] < figures[name]["mean"] < figures[name]["high"]


def test_without_a_judge_that_has_features_there_is_no_distance():
    assert set(Evaluation(judges={"ink": Brightness()}).judge(images(), images())) == {"ink"}
    assert Evaluation().judge(images(), images()) == {}


def test_features_of_a_reward_without_any_are_refused():
    with pytest.raises(InputError, match="got Brightness, which has none"):
        features_of(Brightness(), images())


def test_the_first_judge_with_features_lends_them():
    class Blind(Eyes):
        def features(self, samples):
            return torch.ones(len(samples), 2)

    judges = {"ink": Brightness(), "blind": Blind(), "eyes": Eyes()}
    figures = Evaluation(judges=judges).judge(images(), images(level=0.9))
    assert figures["distance"]["mean"] == pytest.approx(0)


def test_the_distance_rises_with_the_difference_and_stands_beside_real_against_real():
    near = judge_by_eyes(images(level=0.5, seed=1), images())
    far = judge_by_eyes(images(level=0.8, seed=1), images())
    assert near["distance"]["low"] < 0 < near["distance"]["high"]
    assert far["distance"]["low"] > near["distance"]["high"]
    assert near["real_distance"] == far["real_distance"]
    assert abs(near["real_distance"]["mean"]) < far["distance"]["mean"]


def test_features_are_brought_to_a_mean_square_of_one_over_the_real_ones():
    features = images(level=0.7).outputs.flatten(1)
    real = images(seed=1).outputs.flatten(1)
    scale = real.square().mean().sqrt()
    figures = distance_figures(features, real, seed=0)
    expected = kernel_distance(features / scale, real / scale)
    assert figures["distance"]["mean"] == pytest.approx(expected, rel=1e-6)
    scaled = distance_figures(1000 * features, 1000 * real, seed=0)
    for name, figure in figures.items():
        assert scaled[name] == pytest.approx(figure, rel=1e-4, abs=1e-9)


def test_the_halves_of_the_real_ones_are_disjoint_and_seeded():
    def real_distance(seed):
        real = torch.arange(20.0).view(10, 2)
        return distance_figures(real, real, seed=seed)["real_distance"]["mean"]

    assert real_distance(0) == real_distance(0) != real_distance(1)


def test_diversity_falls_where_a_policy_narrows():
    one_image = images().outputs[:1].expand(60, -1, -1, -1)
    narrow = Samples([""] * 60, one_image + 0.001 * images(seed=2).outputs)
    real = images(seed=1)
    wide_figures = judge_by_eyes(images(), real)
    narrow_figures = judge_by_eyes(narrow, real)
    assert narrow_figures["diversity"]["mean"] < 0.1 * wide_figures["diversity"]["mean"]


def test_a_mean_lies_in_its_interval():
    figure = mean_figure(torch.arange(100.0))
    assert figure["low"] < 49.5 == figure["mean"] < figure["high"]


def test_separation_compares_the_held_out_targets_with_each_side():
    scores = {
        "targets": torch.arange(20.0) + 5,
        "before": torch.arange(20.0),
        "after": torch.arange(20.0) + 5,
    }
    figures = separation_figures(scores)
    assert set(figures) == {
        "score_targets",
        "score_before",
        "score_after",
        "auc_before",
        "auc_after",
    }
    both = torch.cat([scores["targets"], scores["before"]])
    labels = torch.arange(40) < 20
    assert figures["auc_before"]["mean"] == auc(both, labels) > figures["auc_after"]["mean"] == 0.5
    assert figures["auc_after"]["low"] < 0.5 < figures["auc_after"]["high"]
