"""Weights that FSDP2 spreads, in a world of one process: what is whole when, and the way back."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.testing import assert_close

from rewardlab import CausalLMPolicy, DiffusionPolicy, Sampler, Samples
from rewardlab.networks.sharding import blocks_of, shard
from rewardlab.networks.shards import is_spread, spread_as, whole
from rewardlab.networks.stand_ins import standing_in
from rewardlab.policies.abilities import TextGenerator
from rewardlab.policies.causal_lm_folder import write_model
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training.strategies import DRAWS
from rewardlab.training.weight_average import WeightAverage

PROMPTS = ["a", "cat"]
SEEDS = row_seeds(3, 2)


@pytest.fixture
def mesh():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def language_policy(**options):
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6, **options)


def image_policy(**options):
    return DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2, **options))


def all_spread(module):
    return all(is_spread(weight) for weight in module.parameters())


def nll(policy, trajectory):
    return -policy.log_prob(trajectory).where(trajectory.mask, 0).sum()


def gradients_of(policy, loss):
    policy.zero_grad()
    loss.backward()
    return [whole(weight.grad) for weight in policy.parameters() if weight.requires_grad]


def test_blocks_are_what_the_model_says_and_else_the_layers_of_its_lists():
    layers = language_policy().network.model.layers
    policy = language_policy()
    names = [type(block).__name__ for block in blocks_of(policy)]
    assert names == ["LlamaDecoderLayer"] * len(layers)
    assert len(blocks_of(language_policy(lora_rank=2))) == len(layers)
    unet = tiny_diffusion(classes=0).unet  # which declares none
    outermost = [*unet.down_blocks, *unet.up_blocks]
    assert [block for block in blocks_of(unet) if block in outermost] == outermost
    assert blocks_of(nn.Sequential(nn.ModuleList([nn.Linear(1, 1)]))) == []


def test_frozen_blocks_are_none():
    """They may be run for some rows alone, so in one process more often than in another."""
    policy = language_policy()
    first, second = policy.network.model.layers
    first.requires_grad_(False)
    assert blocks_of(policy) == [second]


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}, {"gradient_checkpointing": True}])
def test_a_spread_language_model_draws_and_learns_to_the_bit_as_a_whole_one(mesh, options):
    plain = language_policy(**options)
    policy = language_policy(**options)
    spread = shard(policy, mesh, gathered=DRAWS)
    assert len(spread.blocks) == 2
    trajectory = plain.sample(PROMPTS, seeds=SEEDS)
    drawn = policy.sample(PROMPTS, seeds=SEEDS)
    assert drawn.tensors["response"].equal(trajectory.tensors["response"])
    assert all_spread(policy)
    expected = gradients_of(plain, nll(plain, trajectory))
    loss = nll(policy, trajectory)
    assert all_spread(policy)  # until the backward pass asks for them
    gradients = gradients_of(policy, loss)
    assert all_spread(policy)
    assert_close(gradients, expected, rtol=0, atol=0)


def test_one_pass_serves_a_rollout_and_its_step(mesh):
    """The pass has a gradient though the rollout has none, and its weights are gathered again."""
    plain = language_policy()
    policy = language_policy()
    shard(policy, mesh, gathered=DRAWS)
    trajectory = plain.sample(PROMPTS, seeds=SEEDS)
    expected = gradients_of(plain, nll(plain, trajectory))
    with torch.no_grad():
        prepared = policy.prepared(trajectory)
        policy.log_prob(prepared)
    assert all_spread(policy)
    assert_close(gradients_of(policy, nll(policy, prepared)), expected)


class Looking(TextGenerator):
    """Writes the policy that it draws for, as an engine beside the training does."""

    def __init__(self, folder):
        self.folder = folder

    def draw(self, policy, prompts, seeds, limits, terms):
        assert type(policy) is CausalLMPolicy
        assert not any(is_spread(weight) for weight in policy.parameters())
        write_model(policy, self.folder)
        return [[5, 6]] * len(prompts)


def test_what_draws_elsewhere_finds_whole_weights(mesh, tmp_path):
    policy = language_policy(lora_rank=2)
    shard(policy, mesh, gathered=DRAWS)
    policy.draw_by(Looking(tmp_path))
    policy.sample(PROMPTS, seeds=SEEDS)
    assert all_spread(policy)
    copy = CausalLMPolicy(tmp_path, policy.tokenizer)
    policy.draw_by(None)
    trajectory = policy.encode(Samples(["a"], ["cat"]), seeds=SEEDS[:1])
    assert_close(copy.log_prob(trajectory), policy.log_prob(trajectory))


def test_undone_it_is_what_it_was(mesh, tmp_path):
    policy = language_policy(lora_rank=2)
    policy.save_pretrained(tmp_path / "before")
    attributes = {name: set(module.__dict__) for name, module in policy.named_modules()}
    spread = shard(policy, mesh, gathered=DRAWS)
    policy.sample(PROMPTS, seeds=SEEDS)
    gradients_of(policy, nll(policy, policy.sample(PROMPTS, seeds=SEEDS)))
    spread.undo(keep=True)
    assert type(policy) is CausalLMPolicy
    assert not any(is_spread(weight) for weight in policy.parameters())
    assert {name: set(module.__dict__) for name, module in policy.named_modules()} == attributes
    policy.save_pretrained(tmp_path / "after")
    files = [file for file in (tmp_path / "before").rglob("*") if file.is_file()]
    for file in files:
        assert (tmp_path / "after" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_process_that_keeps_nothing_frees_the_weights(mesh):
    policy = language_policy()
    shard(policy, mesh).undo(keep=False)
    assert not sum(weight.numel() for weight in policy.parameters())


def test_a_tied_weight_stays_one(mesh):
    model = tiny_causal_lm()
    model.lm_head.weight = model.model.embed_tokens.weight
    policy = CausalLMPolicy(model, tiny_tokenizer())
    shard(policy, mesh).undo(keep=True)
    assert policy.network.lm_head.weight is policy.network.model.embed_tokens.weight


def test_other_values_stand_in_for_spread_weights_while_a_gradient_is_due(mesh):
    """As DiffusionNFT does: the old weights' output, between a pass and its backward pass."""
    plain = image_policy()
    policy = image_policy()
    shard(policy, mesh)
    samples = Samples(["", ""], torch.rand(2, 1, 8, 8))
    expected = gradients_of(plain, nll(plain, plain.encode(samples, seeds=SEEDS)))
    trajectory = policy.encode(samples, seeds=SEEDS)
    loss = nll(policy, trajectory)
    zeros = [torch.zeros(weight.shape) for weight in policy.parameters()]
    before = policy.log_prob(trajectory).detach()
    with torch.no_grad(), standing_in(list(policy.parameters()), zeros):
        zeroed = policy.log_prob(trajectory)
    assert not zeroed.equal(before)
    assert policy.log_prob(trajectory).detach().equal(before)
    assert_close(gradients_of(policy, loss), expected)


def test_an_average_begun_before_follows_spread_weights(mesh):
    layer = nn.Linear(2, 2, bias=False)
    start = layer.weight.detach().clone()
    average = WeightAverage(layer, decay=0.5)
    shard(layer, mesh)
    with torch.no_grad():
        layer.weight += spread_as(torch.ones(2, 2), layer.weight)
    average.update()
    (values,) = average.state()
    assert_close(values, start + 0.5)


def test_a_spread_policy_draws_at_another_size(mesh):
    plain = image_policy(size=16)
    policy = image_policy(size=16)
    shard(policy, mesh)
    drawn = policy.generate(["", ""], seeds=SEEDS).outputs
    assert drawn.shape[-2:] == (16, 16)
    assert drawn.equal(plain.generate(["", ""], seeds=SEEDS).outputs)
