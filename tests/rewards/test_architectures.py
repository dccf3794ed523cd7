"""Rewards over the sequence classifiers of transformers: each scores twice the same, as it does."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS,
)

from rewardlab.rewards import LanguageReward
from rewardlab.testing import tiny_tokenizer
from rewardlab.types import Samples

POLICIES = Path(__file__).parents[1] / "policies"
SMALL = SimpleNamespace(**runpy.run_path(str(POLICIES / "architectures.py")))
CLASSES = {config.__name__: config for config in SMALL.CAUSAL if config in CLASSIFIERS}
SAMPLES = Samples(["Hi", "Hi", "What is it"], ["yes", "", "a cat"])
FAMILIES = [
    "OPTConfig",
    "GPT2Config",
    "BloomConfig",
    "FalconConfig",
    "LlamaConfig",
    "MixtralConfig",
]


def classifier(name):
    """Return a small classifier whose config has a rate wherever it has a dropout, if any."""
    config = SMALL.small_config(CLASSES[name], rate=0.3)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return CLASSIFIERS[CLASSES[name]](config).float().eval()


def expected_scores(network):
    tokenizer = tiny_tokenizer()
    scores = []
    for prompt, output in zip(SAMPLES.prompts, SAMPLES.outputs, strict=True):
        ids = torch.tensor([[*tokenizer(prompt + output).input_ids, 256]])
        with torch.no_grad():
            scores.append(network(input_ids=ids).logits[0, 0])
    return torch.stack(scores)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reward_scores_twice_the_same_and_as_transformers(name):
    network = classifier(name)
    expected = expected_scores(network)
    reward = LanguageReward(network, tiny_tokenizer()).eval()
    scores = reward(SAMPLES)
    assert scores.requires_grad
    assert torch.equal(reward(SAMPLES), scores)
    assert_close(scores.detach(), expected, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        assert torch.equal(reward.train()(SAMPLES), reward(SAMPLES))
