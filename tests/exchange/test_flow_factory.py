"""The class for Flow-Factory, on a stand-in of the base class, whose interface was read there."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from rewardlab import InputError
from rewardlab.exchange import flow_factory
from rewardlab.rewards import Brightness, Framewise, scores_of
from rewardlab.types import Samples


class PointwiseRewardModel:
    """What Flow-Factory's base class does, at its commit 5f6cda1a."""

    required_fields = ("image", "prompt")
    use_tensor_inputs = False

    def __init__(self, config, accelerator):
        self.accelerator = accelerator
        self.config = config
        is_default = config.device == torch.device("cuda")
        self.device = accelerator.device if is_default else config.device
        self.dtype = config.dtype
        self.model = None

    def to(self, device):
        if self.model is not None:
            self.model.to(device)
        self.device = device
        return self


class RewardModelOutput(SimpleNamespace):
    pass


@pytest.fixture
def model_of(tmp_path, monkeypatch):
    """A function that writes a reward's class and imports it by its path, as Flow-Factory does."""
    package = ModuleType("flow_factory")
    rewards = ModuleType("flow_factory.rewards")
    rewards.PointwiseRewardModel = PointwiseRewardModel
    rewards.RewardModelOutput = RewardModelOutput
    monkeypatch.setitem(sys.modules, "flow_factory", package)
    monkeypatch.setitem(sys.modules, "flow_factory.rewards", rewards)
    monkeypatch.syspath_prepend(tmp_path)

    def make(reward, name, **options):
        reward.save_pretrained(tmp_path / f"{name}_folder")
        flow_factory.write_function(tmp_path / f"{name}_folder", tmp_path / f"{name}.py", **options)
        config = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, batch_size=4)
        accelerator = SimpleNamespace(device=torch.device("cpu"))
        kind = importlib.import_module(name).RewardlabReward
        return kind(config=config, accelerator=accelerator)

    return make


def test_images_are_scored_as_we_score_them(model_of):
    model = model_of(Brightness(), "image_reward")
    assert model.use_tensor_inputs
    assert model.required_fields == ("image", "prompt")
    images = torch.rand(3, 3, 8, 8)
    expected = scores_of(Brightness(), Samples(["a", "b", "c"], images))
    listed = [image.clone() for image in images]
    for batch in (images, listed):
        output = model(prompt=["a", "b", "c"], image=batch, metadata=["{}"] * 3)
        assert torch.equal(torch.as_tensor(output.rewards, dtype=torch.float32), expected)
    mixed = [images[0], torch.ones(3, 4, 6), images[1]]
    rewards = model(prompt=["a", "b", "c"], image=mixed).rewards
    assert rewards.tolist() == pytest.approx([expected[0].item(), 1.0, expected[1].item()])


def test_videos_are_scored_as_we_score_them(model_of):
    reward = Framewise(Brightness())
    model = model_of(reward, "video_reward", video=True)
    assert model.required_fields == ("video", "prompt")
    videos = torch.rand(2, 3, 3, 8, 8)
    rewards = model(prompt=["a", "b"], video=list(videos)).rewards
    assert torch.equal(rewards, scores_of(reward, Samples(["a", "b"], videos)))


def test_the_trainer_moves_the_reward(model_of):
    model = model_of(Brightness(), "moved_reward")
    assert model.to(torch.device("cpu")).model is model.folder.reward()
    assert not model.model.training


def test_what_cannot_be_scored_is_named(model_of):
    model = model_of(Brightness(), "strict_reward")
    with pytest.raises(InputError, match="passed neither"):
        model(prompt=["a"])
    with pytest.raises(InputError, match="3 prompts and 2 outputs"):
        model(prompt=["a", "b", "c"], image=torch.zeros(2, 3, 4, 4))
    with pytest.raises(InputError, match="gave a score of nan"):
        model(prompt=["a"], image=torch.full((1, 3, 4, 4), float("nan")))
