"""Rewards of pictures whose towers compute their activations anew: equal gradients, less memory."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from rewardlab import Samples, VisionReward
from rewardlab.attackers.pgd import image_gradient
from rewardlab.errors import InputError
from rewardlab.planning import measured_peak
from rewardlab.rewards import AestheticReward, ImageReward, SimilarityReward, load_reward
from rewardlab.rewards.transformers_towers import TransformersTower
from rewardlab.testing import tiny_tower

PUBLISHED = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_published.py"))))
LAYERS = 8
SIDE = 32
NUMBERS = {"size": SIDE, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def images(count=4):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def open_clip_tower(**vision):
    from open_clip.model import CLIP

    image = {"image_size": SIDE, "patch_size": 4, "width": 64, "layers": LAYERS, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return seeded(partial(CLIP, 32, image | vision, text))


def resnet():
    return open_clip_tower(layers=(1, 1, 1, 1), width=8, head_width=8, patch_size=None)


def timm_tower():
    sizes = {"img_size": SIDE, "patch_size": 4, "embed_dim": 64, "depth": LAYERS, "num_heads": 4}
    return seeded(partial(timm.create_model, "vit_tiny_patch16_224", **sizes))


def transformers_tower(kind):
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text["num_attention_heads"] = 2
    image = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": LAYERS}
    image |= {"num_attention_heads": 4, "image_size": SIDE, "patch_size": 4}
    config, model = {
        "clip": (CLIPConfig, CLIPModel),
        "siglip": (SiglipConfig, SiglipModel),
    }[kind]
    image["attention_dropout"] = 0.5  # which a tower never draws
    network = seeded(lambda: model(config(text_config=text, vision_config=image)))
    return TransformersTower(network, NUMBERS)


TOWERS = {
    "open_clip": open_clip_tower,
    "timm": timm_tower,
    "clip": partial(transformers_tower, "clip"),
    "siglip": partial(transformers_tower, "siglip"),
}


def vision(tower, **options):
    return VisionReward(TOWERS[tower](), heads=2, width=8, **options)


def similarity(folder, **options):
    return SimilarityReward(open_clip_tower(), kind="pick_score", **options)


def aesthetic(folder, **options):
    file, _ = PUBLISHED.random_chain(folder)
    return AestheticReward(open_clip_tower(), file, **options)


def image_reward(folder, **options):
    torch.save(PUBLISHED.blip_layout(layers=LAYERS), folder / "ImageReward.pt")
    return ImageReward(folder / "ImageReward.pt", PUBLISHED.bert_tokenizer(), **options)


def of_images(pixels):
    return Samples(["a cat", "a dog"] * (len(pixels) // 2), pixels)


def trained(reward):
    """Return scores, and their gradients to images and weights, of a step in training mode."""
    pixels = images().requires_grad_()
    reward.train()
    scores = reward(of_images(pixels))
    scores.sum().backward()
    gradients = [pixels.grad]
    for weight in reward.parameters():
        gradients.append(torch.zeros(()) if weight.grad is None else weight.grad)
    return [scores.detach(), *gradients]


def assert_equal(parts, others):
    for part, other in zip(parts, others, strict=True):
        torch.testing.assert_close(part, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("groups", [0, 1, 4])
def test_a_step_of_a_tower_of_open_clip_is_the_same(groups, conditional):
    options = {"unlocked_groups": groups, "conditional": conditional}
    kept = trained(vision("open_clip", **options))
    assert_equal(trained(vision("open_clip", **options, gradient_checkpointing=True)), kept)
    assert kept[1].abs().sum() > 0


@pytest.mark.parametrize("tower", TOWERS)
def test_a_gradient_through_a_frozen_tower_is_the_same(tower):
    kept = trained(vision(tower))
    assert_equal(trained(vision(tower, gradient_checkpointing=True)), kept)


@pytest.mark.parametrize("make", [similarity, aesthetic, image_reward])
def test_a_published_rewards_gradient_is_the_same_with_less_memory(make, tmp_path):
    rewards = [make(tmp_path, gradient_checkpointing=value) for value in (False, True)]
    assert_equal(trained(rewards[1]), trained(rewards[0]))
    peaks = [attack_peak(reward) for reward in rewards]
    assert peaks[1] < peaks[0]


def attack_peak(reward):
    """Return the peak of one gradient of an attack, whose reward is in evaluation mode."""
    pixels = images()
    samples = of_images(pixels)
    image_gradient(reward.eval(), samples, pixels)
    return measured_peak(lambda: image_gradient(reward, samples, pixels))


@pytest.mark.parametrize(
    ("tower", "groups"), [*((tower, 0) for tower in TOWERS), ("open_clip", 1), ("open_clip", 4)]
)
def test_an_attack_takes_less_than_half_of_the_memory(tower, groups):
    options = {"unlocked_groups": groups}
    kept = attack_peak(vision(tower, **options))
    assert attack_peak(vision(tower, **options, gradient_checkpointing=True)) < 0.5 * kept


def test_fine_tuning_blocks_takes_less_than_half_of_the_memory():
    samples = of_images(images())
    peaks = []
    for value in (False, True):
        reward = vision("open_clip", unlocked_groups=LAYERS, gradient_checkpointing=value)
        features = reward.features(samples)

        def step(reward=reward, features=features):
            reward.score_features(features).sum().backward()

        step()
        reward.zero_grad(set_to_none=False)
        peaks.append(measured_peak(step))
    assert peaks[1] < 0.5 * peaks[0]


def test_a_saved_reward_keeps_the_setting_and_scores_the_same(tmp_path):
    reward = VisionReward(tiny_tower(), width=8, gradient_checkpointing=True).eval()
    reward.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    samples = of_images(images())
    assert loaded.tower.model.visual.transformer.grad_checkpointing
    assert loaded.frozen_fingerprint() == reward.frozen_fingerprint()
    torch.testing.assert_close(loaded(samples), reward(samples))


def test_layers_of_transformers_train_and_nothing_in_them_does():
    reward = vision("clip", gradient_checkpointing=True)
    for mode in (True, False):
        reward.train(mode)
        layers = reward.tower.model.network.vision_model.encoder.layers
        assert all(layer.training for layer in layers)
        for layer in layers:
            assert not any(part.training for part in list(layer.modules())[1:])
    assert not any(part.training for part in vision("clip").eval().modules())


@pytest.mark.parametrize("make", [resnet, lambda: without_checkpointing(timm_tower())])
def test_a_tower_that_keeps_all_activations_says_so(make):
    with pytest.raises(InputError, match=r"needs blocks that compute their activations anew"):
        VisionReward(make(), gradient_checkpointing=True)


def without_checkpointing(trunk):
    """Return a model of timm that refuses, as those do that have no such blocks."""

    def refuse(enable=True):
        assert not enable, "gradient checkpointing not supported"

    trunk.set_grad_checkpointing = refuse
    return trunk


def test_a_block_that_was_frozen_is_frozen_when_it_is_computed_anew():
    """A loop freezes a reward for its forward pass alone, and the backward pass comes later."""
    from rewardlab.networks.recomputing import frozen, recomputed

    block = nn.Sequential(nn.Linear(3, 3), nn.GELU())
    tokens = torch.ones(2, 3, requires_grad=True)
    with frozen(block):
        outputs = recomputed(block, tokens)
    outputs.sum().backward()
    assert block[0].weight.grad is None
    assert tokens.grad.abs().sum() > 0
