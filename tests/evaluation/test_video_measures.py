"""Motion, flicker and consistency of videos, by plain loops, in evaluation and in the guard."""

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation, Guard, MonitoredPolicy
from rewardlab.evaluation.monitors import readings_of
from rewardlab.evaluation.video_measures import video_measures
from rewardlab.metrics import flicker, motion, temporal_consistency
from rewardlab.policies import CallableGenerator
from rewardlab.rewards import Brightness, Framewise, VisionReward
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def videos(count=4, frames=5, channels=3):
    return Samples([""] * count, noise(count, frames, channels, 16, 16))


def test_measures_are_those_of_plain_loops():
    outputs = videos().outputs
    for row, video in enumerate(outputs):
        pixels = video.flatten(1).tolist()
        steps = []
        jumps = []
        for t, frame in enumerate(pixels):
            for place, value in enumerate(frame):
                if t:
                    steps.append(abs(value - pixels[t - 1][place]))
                if 0 < t < len(pixels) - 1:
                    beside = (pixels[t - 1][place] + pixels[t + 1][place]) / 2
                    jumps.append(abs(value - beside))
        assert_close(motion(outputs)[row].item(), sum(steps) / len(steps), atol=1e-5, rtol=1e-4)
        assert_close(flicker(outputs)[row].item(), sum(jumps) / len(jumps), atol=1e-5, rtol=1e-4)


def test_consistency_is_the_mean_cosine_of_neighbours_in_the_extractors_features():
    reward = VisionReward(tiny_tower(), width=8)
    samples = videos()
    consistency = video_measures(samples, reward)["temporal consistency"]
    for row in range(len(samples)):
        features = reward.features(Samples([""] * 5, samples.outputs[row]))
        cosines = []
        for t in range(4):
            one, other = features[t], features[t + 1]
            cosines.append((one @ other / (one.norm() * other.norm())).item())
        assert_close(consistency[row].item(), sum(cosines) / 4, atol=1e-5, rtol=1e-4)
    through_frames = video_measures(samples, Framewise(reward))["temporal consistency"]
    assert_close(through_frames, consistency)


def test_a_still_video_and_a_steady_and_a_flickering_one_are_told_apart():
    still = noise(1, 1, 3, 8, 8).expand(1, 6, 3, 8, 8)
    steady = still * 0.5 + torch.linspace(0, 0.5, 6).view(1, 6, 1, 1, 1)
    jumping = still * 0.5 + torch.tensor([0, 0.1] * 3).view(1, 6, 1, 1, 1)
    outputs = torch.cat([still, steady, jumping])
    assert_close(motion(outputs), torch.tensor([0, 0.1, 0.1]))
    assert_close(flicker(outputs), torch.tensor([0, 0.0, 0.1]), atol=1e-6, rtol=0)
    consistency = video_measures(Samples([""] * 3, outputs), VisionReward(tiny_tower(), width=8))
    assert_close(consistency["temporal consistency"][0], torch.tensor(1.0))


@pytest.mark.parametrize(
    ("frames", "names"),
    [
        (1, set()),
        (2, {"motion", "temporal consistency"}),
        (3, {"motion", "flicker", "temporal consistency"}),
    ],
)
def test_evaluation_measures_what_the_number_of_frames_allows(frames, names):
    judges = {"tower": VisionReward(tiny_tower(), width=8)}
    figures = Evaluation(judges=judges).judge(videos(8, frames), videos(8, frames))
    measured = {"motion", "flicker", "temporal consistency"} & set(figures)
    assert measured == names
    for name in names:
        assert figures[name]["low"] <= figures[name]["mean"] <= figures[name]["high"]
    images = Samples([""] * 8, noise(8, 3, 16, 16))
    assert "motion" not in Evaluation(judges=judges).judge(images, images)


def test_a_judge_of_the_name_keeps_it():
    figures = Evaluation(judges={"motion": Brightness()}).judge(videos(), videos())
    assert_close(figures["motion"]["mean"], Brightness()(videos()).mean().item())


def test_the_guard_reads_videos_and_may_watch_stillness():
    outputs = videos(16).outputs

    def draw(prompts, seeds):
        return outputs[: len(prompts)]

    policy = CallableGenerator(draw)
    watched = MonitoredPolicy(Framewise(VisionReward(tiny_tower(), width=8)), [""])
    readings = readings_of(policy, watched, 16, 0).monitors
    assert_close(readings["stillness"].value, -motion(outputs).mean().item())
    assert_close(readings["flicker"].value, flicker(outputs).mean().item())
    assert 0 < readings["inconsistency"].value < 1
    assert readings["stillness"].standard_error > 0
    Guard(watch=["stillness", "flicker", "inconsistency"])
    with pytest.raises(InputError, match="stillness, flicker and inconsistency"):
        Guard(watch=["movement"])


@pytest.mark.parametrize(
    ("measure", "wrong"),
    [
        (motion, noise(2, 1, 3, 4, 4)),
        (motion, noise(2, 3, 4, 4)),
        (flicker, noise(2, 2, 3, 4, 4)),
        (temporal_consistency, noise(2, 1, 8)),
        (temporal_consistency, noise(2, 8)),
    ],
)
def test_too_few_frames_are_refused_in_a_sentence(measure, wrong):
    with pytest.raises(InputError, match=r"compares .* got \["):
        measure(wrong)
