import pytest
import torch

from rewardlab.rewards import Brightness, Ensemble, Function, Standardized, VisionReward, Weighted
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.types import Samples


class Images:
    def samples(self):
        return Samples(
            ["a cat", "a dog", "a bird"],
            torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0)),
        )


def vision(**options):
    return VisionReward(tiny_tower(), heads=3, width=8, dropout=0.1, **options)


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
        return Samples(
            [""] * 3, torch.rand(3, 2, 1, 12, 20, generator=torch.Generator().manual_seed(0))
        )


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
        return Function(
            lambda samples: torch.tensor([float(len(text)) for text in samples.outputs])
        )

    def samples(self):
        return Samples(["a", "b", "c"], ["x", "xy", "xyz"])


class Wrong(RewardConformance):
    """Rewards that break one rule each; the class below sees that the rule's check fails."""

    def __init__(self, function):
        self.function = function

    def make(self):
        return Function(self.function)

    def samples(self):
        return Samples([""] * 3, torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("function", "check"),
    [
        (
            lambda samples: samples.outputs.flatten(1).mean(1) - samples.outputs.mean(),
            "test_a_row_does_not_depend_on_its_batch",
        ),
        (
            lambda samples: torch.rand(len(samples)),
            "test_equal_input_gives_equal_scores_and_global_randomness_is_left_alone",
        ),
    ],
)
def test_the_checks_can_fail(function, check):
    with pytest.raises(AssertionError):
        getattr(Wrong(function), check)()
