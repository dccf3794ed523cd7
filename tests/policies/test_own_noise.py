"""PNAPO: the policy's own pictures are noised with the noise that they were drawn from."""

import logging
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from rewardlab import CausalLMPolicy, DiffusionPolicy, InputError, PreferencePairs, Sampler, Samples
from rewardlab.mining import BestOf
from rewardlab.policies import encoding
from rewardlab.policies.noising import noising
from rewardlab.rewards import Brightness
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import DPO

SEEDS = row_seeds(4, 3)
PROMPTS = ["one", "zero", "one"]


def flow_policy(**options):
    pipeline = tiny_diffusion(flow=True)
    sampler = Sampler(steps=4)
    return DiffusionPolicy(pipeline, labels=["zero", "one"], sampler=sampler, **options)


def only_at_one(policy):
    """Leave t = 1 as the only time of training."""
    policy.noising = noising(FlowMatchEulerDiscreteScheduler(num_train_timesteps=1))
    return policy


def first_inputs(policy, generator):
    """Return a generator's samples, and what its network saw first."""
    seen = []
    hook = policy.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    samples = generator.generate(PROMPTS, seeds=SEEDS)
    hook.remove()
    return samples, seen[0]


@pytest.mark.parametrize("draws", [1, 3])
def test_encoding_at_time_1_returns_the_prior_noise_to_the_bit(draws):
    policy = flow_policy(draws=draws)
    samples, noise = first_inputs(policy, policy)
    encoded = only_at_one(policy).encode_own(samples, seeds=row_seeds(9, 3))
    for draw in range(draws):
        assert torch.equal(encoded.tensors["x"][:, draw], noise)
    fresh = policy.encode(samples, seeds=row_seeds(9, 3))
    assert not torch.equal(fresh.tensors["x"][:, 0], noise)


def test_the_best_of_n_keeps_the_seed_that_its_policy_drew_with():
    policy = flow_policy()
    best = BestOf(BestOf(policy, Brightness(), 2), Brightness(), 3)
    samples = best.generate(PROMPTS, seeds=SEEDS)
    assert torch.equal(samples.facts["seed"], SEEDS)
    again, noise = first_inputs(policy, WithSeeds(policy, samples.facts["inner_seed"]))
    torch.testing.assert_close(again.outputs, samples.outputs)
    encoded = only_at_one(policy).encode_own(samples, seeds=SEEDS)
    assert torch.equal(encoded.tensors["x"][:, 0], noise)


class WithSeeds:
    """A generator that draws with other seeds than it is told."""

    def __init__(self, policy, seeds):
        self.policy = policy
        self.seeds = seeds

    def generate(self, prompts, *, seeds):
        return self.policy.generate(prompts, seeds=self.seeds)


def test_times_are_those_of_fresh_noise_and_the_path_is_straight():
    policy = flow_policy(draws=2)
    samples = policy.generate(PROMPTS, seeds=SEEDS)
    seeds = row_seeds(9, 3)
    own = policy.encode_own(samples, seeds=seeds).tensors
    assert torch.equal(own["time"], policy.encode(samples, seeds=seeds).tensors["time"])
    noise = encoding.prior_noise(policy, samples)[:, None]
    x0 = (2 * samples.outputs - 1)[:, None]
    share = (own["time"] / 1000)[:, :, None, None, None]
    torch.testing.assert_close(own["x"], (1 - share) * x0 + share * noise)
    torch.testing.assert_close(own["target"], (noise - x0).expand(-1, 2, -1, -1, -1))


def test_a_row_does_not_depend_on_its_batch():
    policy = flow_policy()
    samples = policy.generate(PROMPTS, seeds=SEEDS)
    whole = policy.encode_own(samples, seeds=row_seeds(9, 3))
    alone = policy.encode_own(samples[2:], seeds=row_seeds(9, 3)[2:])
    assert torch.equal(whole.tensors["x"][2:], alone.tensors["x"])


def pairs_of(policy):
    chosen = policy.generate(PROMPTS, seeds=SEEDS).numbered()
    rejected = policy.generate(PROMPTS, seeds=SEEDS + 1).numbered()
    return PreferencePairs(chosen, rejected)


def loop(noise, **options):
    module = DPO(flow_policy(draws=2), beta=100.0, noise=noise, **options)
    module.log_dict = lambda figures, **_: None
    return module


def encoded_by(module, pairs):
    return module._both_halves(pairs).tensors


def test_dpo_noises_each_half_with_its_own_at_one_time():
    module = loop("own")
    pairs = pairs_of(module.policy)
    tensors = encoded_by(module, pairs)
    chosen, rejected = tensors["time"].chunk(2)
    assert torch.equal(chosen, rejected)
    expected = []
    for half in (pairs.chosen, pairs.rejected):
        noise = encoding.prior_noise(module.policy, half)
        expected.append((noise - (2 * half.outputs - 1))[:, None].expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(tensors["target"], torch.cat(expected))


def test_without_seeds_the_noise_is_fresh_and_dpo_says_so_once(caplog):
    module = loop("own")
    pairs = pairs_of(module.policy)
    outside = Samples(pairs.rejected.prompts, pairs.rejected.outputs).numbered()
    mixed = PreferencePairs(pairs.chosen, outside)
    with caplog.at_level(logging.WARNING, logger="rewardlab"):
        first = encoded_by(module, mixed)
        encoded_by(module, mixed)
    assert caplog.text.count("encoded with fresh noise") == 1
    fresh = encoded_by(loop("fresh"), mixed)
    for name, tensor in first.items():
        assert torch.equal(tensor, fresh[name])


def test_policies_whose_pictures_do_not_follow_from_their_noise_are_refused():
    curved = DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"])
    with pytest.raises(InputError, match="curved"):
        DPO(curved, noise="own")
    assert isinstance(curved.scheduler, DDIMScheduler)
    pipeline = tiny_diffusion(flow=True)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with pytest.raises(InputError, match="add none"):
        DPO(DiffusionPolicy(pipeline, labels=["zero", "one"]), noise="own")
    with pytest.raises(InputError, match="a CausalLMPolicy does not"):
        DPO(CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer()), noise="own")
    with pytest.raises(InputError, match='"fresh" or "own"'):
        DPO(flow_policy(), noise="prior")


def test_samples_without_seeds_are_refused_by_name():
    policy = flow_policy()
    samples = Samples(PROMPTS, torch.rand(3, 1, 8, 8)).numbered()
    encode = partial(policy.encode_own, samples, seeds=SEEDS)
    with pytest.raises(InputError, match=r"these have \['row'\]"):
        encode()
