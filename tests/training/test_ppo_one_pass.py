"""A rollout for one step is run through the policy's network once, and nothing else changes."""

import pytest
import pytorch_lightning as pl
import torch

from rewardlab.data.prompt_data import Prompts
from rewardlab.policies import CausalLMPolicy, Policy
from rewardlab.rewards.functions import Function
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training import PPO
from rewardlab.training.gradient_regularization import GradientRegularization
from rewardlab.training.trainers import SILENT


def length(samples):
    return torch.tensor([float(len(text)) for text in samples.outputs])


def trained(settings, adapter=None):
    """Return a policy's weights after two rollouts, and the passes over rollouts a rollout."""
    policy = CausalLMPolicy(
        tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4, lora_rank=adapter, value_head=True
    )
    count = CountedPasses(policy)
    module = PPO(policy, Function(length), samples_per_prompt=2, kl_weight=0.1, **settings)
    trainer = pl.Trainer(max_epochs=1, **SILENT)
    trainer.fit(module, Prompts(["ab", "c"] * 2, batch_size=2))
    return policy.state_dict(), count.passes / 2


class CountedPasses:
    """Counts how often a network runs whole rollouts: without a cache of keys and values."""

    def __init__(self, policy):
        self.passes = 0
        policy.network.base_model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, network, arguments, options):
        self.passes += not options["use_cache"]


@pytest.mark.parametrize("adapter", [None, 2])
@pytest.mark.parametrize("advantage", ["leave_one_out", "generalized"])
def test_one_step_takes_one_pass_and_the_same_weights(monkeypatch, adapter, advantage):
    weights, passes = trained({"advantage": advantage}, adapter)
    assert passes == 1 + (adapter is not None)  # a reference that shares the network runs it too
    monkeypatch.setattr(CausalLMPolicy, "prepared", Policy.prepared)
    expected, more_passes = trained({"advantage": advantage}, adapter)
    assert more_passes > passes
    for name, weight in expected.items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 2},
        {"minibatch": 2},
        {"micro_batch": 2},
        {"gradient_regularization": GradientRegularization()},
    ],
)
def test_several_passes_where_the_weights_or_the_rows_change(settings):
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
    module = PPO(policy, Function(length), samples_per_prompt=2, **settings)
    assert module.collect(["ab", "c"], torch.arange(2)).prepared is None


def test_what_is_prepared_scores_alike_and_is_not_in_the_rollout():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
    module = PPO(policy, Function(length), samples_per_prompt=2)
    experience = module.collect(["ab", "c"], torch.arange(2))
    prepared = experience.prepared
    assert prepared.tensors.keys() - experience.rollout.trajectory.tensors.keys() == {"states"}
    assert torch.equal(policy.log_prob(prepared), experience.rollout.log_prob)
