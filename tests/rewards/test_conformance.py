import pytest
import torch

from rewardlab.rewards import (
    Brightness,
    Ensemble,
    Function,
    Reward,
    Saved,
    Standardized,
    VisionReward,
    Weighted,
)
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.types import Samples


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def vision(**options):
    return VisionReward(tiny_tower(), heads=3, width=8, dropout=0.1, **options)


def text_lengths(samples):
    return torch.tensor([float(len(text)) for text in samples.outputs])


class Images:
    def samples(self):
        return Samples(["a cat", "a dog", "a bird"], noise(3, 3, 20, 20))


class TestVisionReward(Images, RewardConformance):
    def make(self):
        return vision()


class TestConditionalUnlockedVisionReward(Images, RewardConformance):
    def make(self):
        return vision(unlocked_groups=2, conditional=True)


class TestVisionRewardOfVideos(RewardConformance):
    def make(self):
        return vision(unlocked_groups=2)

    def samples(self):
        return Samples([""] * 3, noise(3, 2, 1, 12, 20))


class TestBrightness(Images, RewardConformance):
    def make(self):
        return Brightness()


class TestStandardized(Images, RewardConformance):
    def make(self):
        return Standardized(vision(), 0.1, 2.0)


class TestWeighted(Images, RewardConformance):
    def make(self):
        return Weighted([vision(), vision()], [1.0, -0.5])


class TestEnsemble(Images, RewardConformance):
    def make(self):
        return Ensemble([vision(), Brightness()])


class TestFunction(RewardConformance):
    def make(self):
        return Function(text_lengths)

    def samples(self):
        return Samples(["a", "b", "c"], ["x", "xy", "xyz"])


class Wrong(RewardConformance):
    """Rewards that break one law each; the tests below see that the law's check fails."""

    def __init__(self, reward):
        self.reward = reward

    def make(self):
        return self.reward

    def samples(self):
        return Samples([""] * 3, noise(3, 3, 4, 4))


def against_the_batch(samples):
    return samples.outputs.flatten(1).mean(1) - samples.outputs.mean()


def random(samples):
    return torch.rand(len(samples))


class WorstOfTwo(Reward):
    """The minimum of two members, with the promise that it is their mean."""

    mean_of_members = True

    def forward(self, samples):
        return self.members(samples).amin(1)

    def members(self, samples):
        brightness = Brightness()(samples)
        return torch.stack([brightness, 1 + brightness], 1)


class Forgetful(Brightness, Saved):
    """Brightness times a factor that is not saved."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, samples):
        return self.factor * super().forward(samples)


class HalfSaved(Brightness):
    """A reward that writes before it refuses."""

    def check_savable(self):
        self.save_pretrained("nowhere")

    def save_pretrained(self, folder):
        from rewardlab.errors import InputError

        if folder != "nowhere":
            folder.mkdir()
        raise InputError("It cannot be saved.")


@pytest.mark.parametrize(
    ("reward", "check"),
    [
        (Function(against_the_batch), "test_a_row_does_not_depend_on_its_batch"),
        (
            Function(random),
            "test_equal_input_gives_equal_scores_and_global_randomness_is_left_alone",
        ),
        (WorstOfTwo(), "test_the_score_is_the_mean_of_the_members_where_that_is_promised"),
    ],
)
def test_the_checks_can_fail(reward, check):
    with pytest.raises(AssertionError):
        getattr(Wrong(reward), check)()


@pytest.mark.parametrize("reward", [Forgetful(2.0), HalfSaved()])
def test_the_check_of_saving_can_fail(reward, tmp_path):
    with pytest.raises(AssertionError):
        Wrong(reward).test_it_is_the_same_after_saving_and_loading(tmp_path)
