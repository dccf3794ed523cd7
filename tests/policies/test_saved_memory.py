"""Saving tries the folder without a second copy of the network in memory: its files are mapped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rewardlab.policies import CausalLMPolicy, DiffusionPolicy, Sampler, diffusion_folder, saved
from rewardlab.rewards import LanguageReward
from rewardlab.rewards import saved as saved_rewards
from rewardlab.testing import tiny_images, tiny_pipelines, tiny_videos
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

STATUS = Path("/proc/self/status")
MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def anonymous():
    """Return the bytes of memory that are no mapped file."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


@linux
@pytest.mark.parametrize(("dtype", "lora_rank"), [("float32", None), ("bfloat16", 4)])
def test_a_diffusion_policy_is_saved_without_a_copy(dtype, lora_rank, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny_images.UNET, "block_out_channels", (128, 256))
    pipeline = tiny_images.tiny_stable_diffusion(tmp_path / "tokenizer")
    policy = DiffusionPolicy(pipeline, dtype=dtype, lora_rank=lora_rank)
    size = sum(weight.nbytes for weight in policy.denoiser.parameters())
    assert size > 20 * MIB
    growth = []
    settings, difference = diffusion_folder._mapped_settings, diffusion_folder._difference

    def before(folder):
        growth.append(anonymous())
        return settings(folder)

    def after(*policies):
        growth.append(anonymous() - growth[0])
        return difference(*policies)

    monkeypatch.setattr(diffusion_folder, "_mapped_settings", before)
    monkeypatch.setattr(diffusion_folder, "_difference", after)
    policy.save_pretrained(tmp_path / "policy")
    assert growth[1] < 0.3 * size


@linux
def test_a_language_policy_and_a_reward_are_saved_without_a_copy(tmp_path, monkeypatch):
    network = tiny_causal_lm(width=256, layers=12)
    size = sum(weight.nbytes for weight in network.parameters())
    assert size > 20 * MIB
    growth = []
    check = saved.check_same_tokens

    def after(*arguments):
        growth.append(anonymous())
        return check(*arguments)

    monkeypatch.setattr(saved, "check_same_tokens", after)
    monkeypatch.setattr(saved_rewards, "check_same_tokens", after)
    policy = CausalLMPolicy(network, tiny_tokenizer())
    for part in (policy, LanguageReward(network, tiny_tokenizer(), frozen=True)):
        part.save_pretrained(tmp_path / type(part).__name__)  # what a first save keeps
        start = anonymous()
        part.save_pretrained(tmp_path / type(part).__name__)
        assert growth[-1] - start < 0.3 * size, type(part).__name__


def test_large_pictures_are_tried_small(tmp_path, monkeypatch):
    shapes = []
    prediction = diffusion_folder._prediction

    def noted(policy):
        shapes.append(policy.shape)
        return prediction(policy)

    monkeypatch.setattr(diffusion_folder, "_prediction", noted)
    pipelines = {
        (4, 32, 32): (tiny_pipelines.tiny_flux(tmp_path / "a"), (512, 64), None),
        (16, 1, 32, 32): (tiny_videos.tiny_wan(tmp_path / "b"), (32, 320), 5),
    }
    for shape, (pipeline, size, frames) in pipelines.items():
        policy = DiffusionPolicy(pipeline, size=size, frames=frames)
        own = policy.shape
        policy.save_pretrained(tmp_path / type(pipeline).__name__)
        assert shapes[-2] == shapes[-1]
        assert shapes[-1][: len(shape) - 2] == shape[:-2]
        assert max(shapes[-1][-2:]) * policy.family.factor == diffusion_folder.PROBED
        loaded = DiffusionPolicy.from_pretrained(tmp_path / type(pipeline).__name__)
        assert loaded.shape == policy.shape == own


def test_the_settings_that_are_saved_are_the_policys_own(tmp_path):
    """The trial in float32, without an adapter, leaves no trace in what is loaded later."""
    pipeline = tiny_images.tiny_stable_diffusion(tmp_path / "tokenizer")
    sampler = Sampler(steps=2, eta=0.0)
    policy = DiffusionPolicy(pipeline, dtype="bfloat16", lora_rank=2, sampler=sampler)
    policy.save_pretrained(tmp_path / "policy")
    loaded = DiffusionPolicy.from_pretrained(tmp_path / "policy")
    assert (loaded.dtype, loaded.lora_rank) == (torch.bfloat16, 2)
    seeds = torch.tensor([1])
    drawn = policy.generate(["a"], seeds=seeds).outputs
    assert_close(loaded.generate(["a"], seeds=seeds).outputs, drawn, atol=0.05, rtol=0)
