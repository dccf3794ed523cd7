"""Videos scored frame by frame: pooling, features, training, calibration, members, files."""

import itertools
import math

import pytest
import pytorch_lightning as pl
import torch
from torch.testing import assert_close

from rewardlab.data import TargetSamples
from rewardlab.data.features import features_of
from rewardlab.data.loader import Rows
from rewardlab.errors import InputError
from rewardlab.rewards import (
    Brightness,
    Ensemble,
    Framewise,
    Function,
    SimilarityReward,
    Standardized,
    VisionReward,
    load_reward,
)
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.framewise import spread_frames
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.training import GANRM
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples

QUIET = {**SILENT, "logger": False}


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def videos(count=3, frames=5, channels=3):
    prompts = [f"prompt {row}" for row in range(count)]
    return Samples(prompts, noise(count, frames, channels, 16, 16)).numbered()


def vision(**options):
    return VisionReward(tiny_tower(), heads=3, width=8, **options)


def brightest_pixel(samples):
    return samples.outputs.flatten(1).amax(1)


class Videos(RewardConformance):
    def samples(self):
        return videos()


class TestMean(Videos):
    def make(self):
        return Framewise(vision(), frames=3)


class TestMinOfConditional(Videos):
    def make(self):
        return Framewise(vision(conditional=True), "min")


class TestSoftminOfUnlocked(Videos):
    def make(self):
        return Framewise(vision(unlocked_groups=2), "softmin", temperature=0.5, micro_batch=2)


class TestOfFunctions(Videos):
    def make(self):
        return Framewise(Ensemble([Brightness(), Function(brightest_pixel)]), "min")


class TestOfPublished(Videos):
    def make(self):
        return Framewise(SimilarityReward(tiny_tower()), "min")


class TestOfImages(RewardConformance):
    def make(self):
        return Framewise(vision(), "min")

    def samples(self):
        return Samples([""] * 3, noise(3, 1, 9, 12))


POOLINGS = {
    "mean": lambda scores: sum(scores) / len(scores),
    "min": min,
    "softmin": lambda scores: (
        -0.3 * math.log(sum(math.exp(-score / 0.3) for score in scores) / len(scores))
    ),
}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("inner", [vision, Brightness, lambda: Function(brightest_pixel)])
def test_pooled_scores_are_those_of_the_frames_alone(pooling, inner):
    """Each frame is scored as an image of its own, and pooled by plain arithmetic."""
    temperature = 0.3 if pooling == "softmin" else None
    reward = inner()
    framewise = Framewise(reward, pooling, frames=None, temperature=temperature, micro_batch=4)
    samples = videos()
    for row in range(3):
        columns = []
        for frame in samples.outputs[row]:
            image = Samples([samples.prompts[row]], frame[None])
            columns.append(reward.members(image)[0].tolist())
        expected = [POOLINGS[pooling](scores) for scores in zip(*columns, strict=True)]
        members = framewise.members(samples)[row]
        assert_close(members, torch.tensor(expected), atol=1e-5, rtol=1e-4)
        mean = members.mean()
        assert_close(framewise(samples)[row], mean, atol=1e-5, rtol=1e-4)


def test_softmin_lies_between_and_has_both_limits():
    samples = videos()
    scores = {}
    for name, pooling, temperature in (
        ("mean", "mean", None),
        ("min", "min", None),
        ("cold", "softmin", 1e-4),
        ("warm", "softmin", 0.05),
        ("hot", "softmin", 1e3),
    ):
        reward = Framewise(Function(brightest_pixel), pooling, temperature=temperature)
        scores[name] = reward(samples)
    assert_close(scores["cold"], scores["min"], atol=1e-3, rtol=0)
    assert_close(scores["hot"], scores["mean"], atol=1e-3, rtol=0)
    assert (scores["min"] < scores["warm"]).all()
    assert (scores["warm"] < scores["mean"]).all()


@pytest.mark.parametrize(
    ("pooling", "temperature", "moved"), [("mean", None, 5), ("min", None, 1), ("softmin", 0.1, 5)]
)
def test_gradients_reach_the_frames_that_count(pooling, temperature, moved):
    outputs = videos(1).outputs.requires_grad_()
    reward = Framewise(vision(), pooling, temperature=temperature, micro_batch=2)
    reward(Samples([""], outputs)).sum().backward()
    frames = outputs.grad[0].abs().flatten(1).sum(1)
    if pooling == "min":  # of three heads, each has its own lowest frame
        assert 1 <= (frames > 0).sum() <= 3
    else:
        assert (frames > 0).sum() == moved


@pytest.mark.parametrize("count", range(1, 20))
def test_frames_are_spread_evenly(count):
    for most in range(1, 9):
        rows = spread_frames(count, most)
        assert len(rows) == min(count, most)
        assert rows == sorted(set(rows))
        steps = {later - sooner for sooner, later in itertools.pairwise(rows)}
        assert max(steps, default=0) - min(steps, default=0) <= 1
        assert abs(rows[0] - (count - 1 - rows[-1])) <= 1  # as far from the start as from the end


def test_other_frames_change_nothing():
    samples = videos(frames=9)
    rows = spread_frames(9, 3)
    reward = Framewise(vision(), frames=3)
    changed = torch.rand_like(samples.outputs)
    changed[:, rows] = samples.outputs[:, rows]
    assert reward(samples).equal(reward(Samples(samples.prompts, changed)))


def test_features_are_those_of_each_frame_and_cached(tmp_path):
    reward = Framewise(vision(), frames=3)
    samples = videos()
    features = features_of(reward, Rows(samples), tmp_path)
    assert features.shape[:2] == (3, 3)
    for place, frame in enumerate(spread_frames(5, 3)):
        image = Samples(samples.prompts, samples.outputs[:, frame])
        assert_close(features[:, place], reward.reward.features(image), atol=1e-5, rtol=1e-4)
    assert features_of(reward, Rows(samples), tmp_path).equal(features)
    assert len(list(tmp_path.iterdir())) == 1
    features_of(Framewise(vision(), frames=2), Rows(samples), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "another limit of frames has another cache"
    assert frozen_features(Framewise(Brightness())) is None


@pytest.mark.parametrize("pooling", ["mean", "min", "softmin"])
def test_gan_rm_learns_videos_and_is_saved_with_calibration(pooling, tmp_path):
    """Bright targets against dim ones; one dark frame in a target is what min sees."""
    dim = Samples([""] * 24, 0.4 * noise(24, 3, 3, 16, 16))
    bright = Samples([""] * 24, 0.4 * noise(24, 3, 3, 16, 16) + 0.5)
    temperature = 0.5 if pooling == "softmin" else None
    reward = Framewise(vision(), pooling, temperature=temperature)
    data = TargetSamples(bright, dim, held_out=6, batch_size=12, cache=tmp_path / "cache")
    trainer = pl.Trainer(max_epochs=15, **QUIET)
    trainer.fit(GANRM(reward), data)
    assert trainer.callback_metrics["val/auc"] == 1
    assert reward.meaning.startswith("log density ratio")
    generated = data.split("train").inputs[data.split("train").of("generated")]
    scores = reward.score_features(generated).mean(1)
    assert_close(reward.score_mean, scores.mean(), atol=1e-4, rtol=1e-4)
    reward.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert isinstance(loaded, Framewise)
    assert (loaded.pooling, loaded.meaning) == (pooling, reward.meaning)
    assert_close(loaded.members(bright), reward.eval().members(bright))
    standardized = Standardized(loaded)(dim)
    assert abs(standardized.mean()) < 1.5
    broken = bright.outputs.clone()
    broken[:, 1] = 0
    drop = reward(bright) - reward(Samples(bright.prompts, broken))
    assert (drop > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "pools by mean, min or softmin"),
        ({"pooling": "softmin"}, "takes a temperature above 0"),
        ({"temperature": 1.0}, "takes a temperature above 0"),
        ({"pooling": "softmin", "temperature": -1.0}, "takes a temperature above 0"),
        ({"frames": 0}, "one frame at least"),
        ({"micro_batch": 0}, "one at once"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Framewise(Brightness(), **options)


def test_texts_and_videos_without_frames_are_refused_and_rows_are_named():
    reward = Framewise(Function(lambda samples: brightest_pixel(samples) / 0))
    with pytest.raises(InputError, match="list of 1 strings"):
        reward(Samples([""], ["a text"]))
    with pytest.raises(InputError, match="without frames"):
        reward(Samples([""], torch.rand(1, 0, 3, 8, 8)))
    with pytest.raises(InputError, match=r"row 0\).*prompt 0"):
        reward(videos())
