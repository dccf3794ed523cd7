from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.networks.lora import adapted_layers
from rewardlab.rewards import Brightness, VisionReward
from rewardlab.rewards.averaging import averaged, fork
from rewardlab.rewards.language import LanguageReward
from rewardlab.testing import tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples


def trained(reward, seed):
    """Stand in for training: move what is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in reward.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return reward


def trained_forks(start, count):
    return [trained(copy, seed) for seed, copy in enumerate(fork(start, count))]


def frozen_weights(reward):
    return {id(weight) for weight in reward.parameters() if not weight.requires_grad}


class TestAveraged:
    @pytest.fixture
    def start(self):
        start = VisionReward(tiny_tower(), heads=2, width=8)
        start.calibrate(torch.tensor([0.0, 1.0]))
        return start

    def test_weights_are_the_mean(self, start):
        forks = trained_forks(start, 3)
        result = averaged(forks)
        states = [copy.state_dict() for copy in forks]
        for name, weight in result.state_dict().items():
            if not name.startswith("score_"):
                expected = torch.stack([state[name] for state in states]).mean(0)
                assert_close(weight, expected)
        assert result.score_std == 0

    def test_frozen_weights_are_shared(self, start):
        result = averaged(trained_forks(start, 2))
        assert frozen_weights(start)
        assert frozen_weights(result) == frozen_weights(start)

    def test_the_members_stay_as_they_were(self, start):
        forks = trained_forks(start, 2)
        before = [deepcopy(copy.state_dict()) for copy in forks]
        averaged(forks)
        for copy, state in zip(forks, before, strict=True):
            for name, weight in copy.state_dict().items():
                assert torch.equal(weight, state[name])


def test_a_linear_head_averages_to_the_mean_of_its_scores():
    start = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True).eval()
    texts = Samples(["hi", "hi"], ["hello", "go away"])
    forks = trained_forks(start, 2)
    expected = torch.stack([copy(texts) for copy in forks]).mean(0)
    assert not torch.allclose(expected, forks[0](texts))
    assert_close(averaged(forks)(texts), expected)


def test_adapters_average_to_the_mean_of_their_changes():
    """Both factors of an adapter are averaged, and the product must not count the members twice."""
    start = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), lora_rank=2).eval()
    forks = fork(start, 3)
    for seed, copy in enumerate(forks):
        for name, weight in copy.named_parameters():
            if "lora_A" in name:  # it hardly moves in training, and here not at all
                weight.requires_grad_(False)
        trained(copy, seed)
    expected = torch.stack([change(copy) for copy in forks]).mean(0)
    assert expected.abs().max() > 0
    assert_close(change(averaged(forks)), expected)


def change(reward):
    """Return what the adapter adds to the first layer that has one."""
    layer = next(iter(adapted_layers(reward).values()))
    return layer.get_delta_weight("default").detach()


class TestWhatIsRefused:
    tower = tiny_tower()

    @pytest.fixture
    def apart(self):
        """Two rewards on one tower whose heads were drawn apart."""
        return [VisionReward(self.tower, width=8, seed=seed) for seed in range(2)]

    def test_members_without_a_record_of_their_start(self, apart):
        with pytest.raises(InputError, match="2 of 2 carry no record"):
            averaged(apart)
        averaged([deepcopy(apart[0]), apart[0]], forked=True)

    @pytest.mark.parametrize("forked", [False, True])
    def test_forks_of_different_rewards(self, apart, forked):
        forks = [fork(reward, 1)[0] for reward in apart]
        with pytest.raises(InputError, match="forks of different rewards"):
            averaged(forks, forked=forked)

    def test_other_shapes_and_classes(self, apart):
        for other in (VisionReward(self.tower, width=16), Brightness()):
            with pytest.raises(InputError, match="one class"):
                averaged([apart[0], other], forked=True)

    def test_one_alone(self, apart):
        with pytest.raises(InputError, match="two or more"):
            averaged(apart[:1], forked=True)

    def test_members_on_other_models(self):
        members = [VisionReward(tiny_tower(seed), width=8) for seed in range(2)]
        with pytest.raises(InputError, match="stand on other models"):
            averaged(members, forked=True)
