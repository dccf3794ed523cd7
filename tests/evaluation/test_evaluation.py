"""Figures about a policy: the same prompts and seeds every time, means with intervals, distances
beside what is real.
"""

import pytest
import torch

from rewardlab import DiffusionPolicy
from rewardlab.evaluation import Evaluation
from rewardlab.evaluation.evaluation import distance_figures, mean_figure, separation_figures
from rewardlab.metrics import auc, kernel_distance
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Brightness, FrozenFeatures, Reward
from rewardlab.testing import tiny_diffusion
from rewardlab.types import Samples


class Eyes(Reward, FrozenFeatures):
    """Pixels as features."""

    def features(self, samples):
        return samples.outputs.flatten(1)

    def forward(self, samples):
        return samples.outputs.mean((1, 2, 3))


def images(count=60, level=0.5, seed=0, width=4):
    noise = torch.randn(count, 1, width, width, generator=torch.Generator().manual_seed(seed))
    return Samples([""] * count, (level + 0.1 * noise).clamp(0, 1))


def test_the_same_outputs_are_drawn_every_time_the_prompts_in_turn():
    policy = DiffusionPolicy(
        tiny_diffusion(), labels=["zero", "one"], sampler=Sampler(steps=2)
    ).eval()
    first, again = (Evaluation(samples=5).draw(policy, ["zero", "one"]) for _ in range(2))
    assert list(first.prompts) == ["zero", "one", "zero", "one", "zero"]
    assert torch.equal(first.outputs, again.outputs)
    assert not torch.equal(
        first.outputs, Evaluation(samples=5, seed=1).draw(policy, ["zero", "one"]).outputs
    )


def test_each_judge_gives_its_mean_within_its_interval():
    figures = Evaluation(judges={"ink": Brightness(), "eyes": Eyes()}).judge(
        images(), images(seed=1)
    )
    assert set(figures) == {"ink", "eyes", "distance", "real_distance", "diversity"}
    assert figures["ink"]["mean"] == pytest.approx(images().outputs.mean().item(), abs=1e-6)
    for name in ("ink", "distance"):
        assert figures[name]["low"] < figures[name]["mean"] < figures[name]["high"]


def test_without_a_judge_that_has_features_there_is_no_distance():
    assert set(Evaluation(judges={"ink": Brightness()}).judge(images(), images())) == {"ink"}
    assert Evaluation().judge(images(), images()) == {}


def test_the_first_judge_with_features_lends_them():
    class Blind(Eyes):
        def features(self, samples):
            return torch.ones(len(samples), 2)

    figures = Evaluation(judges={"ink": Brightness(), "blind": Blind(), "eyes": Eyes()}).judge(
        images(), images(level=0.9)
    )
    assert figures["distance"]["mean"] == pytest.approx(0)


def test_the_distance_rises_with_the_difference_and_stands_beside_real_against_real():
    near, far = (
        Evaluation(judges={"eyes": Eyes()}).judge(images(level=level, seed=1), images())
        for level in (0.5, 0.8)
    )
    assert near["distance"]["low"] < 0 < near["distance"]["high"]
    assert far["distance"]["low"] > near["distance"]["high"]
    assert near["real_distance"] == far["real_distance"]
    assert abs(near["real_distance"]["mean"]) < far["distance"]["mean"]


def test_features_are_brought_to_a_mean_square_of_one_over_the_real_ones():
    own, real = images(level=0.7).outputs.flatten(1), images(seed=1).outputs.flatten(1)
    scale = real.square().mean().sqrt()
    figures = distance_figures(own, real, seed=0)
    assert figures["distance"]["mean"] == pytest.approx(
        kernel_distance(own / scale, real / scale), rel=1e-6
    )
    again = distance_figures(1000 * own, 1000 * real, seed=0)
    for name, figure in figures.items():
        assert again[name] == pytest.approx(figure, rel=1e-4, abs=1e-9)


def test_the_halves_of_the_real_ones_are_disjoint_and_seeded():
    real = torch.arange(20.0).view(10, 2)
    first, again, other = (
        distance_figures(real, real, seed=seed)["real_distance"]["mean"] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_diversity_falls_where_a_policy_narrows():
    wide, narrow = (
        images(),
        Samples(
            [""] * 60, images().outputs[:1].expand(60, -1, -1, -1) + 0.001 * images(seed=2).outputs
        ),
    )
    figures = [
        Evaluation(judges={"eyes": Eyes()}).judge(samples, images(seed=1))["diversity"]["mean"]
        for samples in (wide, narrow)
    ]
    assert figures[1] < 0.1 * figures[0]


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
    both, labels = torch.cat([scores["targets"], scores["before"]]), torch.arange(40) < 20
    assert figures["auc_before"]["mean"] == auc(both, labels) > figures["auc_after"]["mean"] == 0.5
    assert figures["auc_after"]["low"] < 0.5 < figures["auc_after"]["high"]
