"""LatentPolicy: exact Gaussians over a generator's latents, and every loop on it."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from rewardlab import DPO, PPO, SFT, InputError, PreferencePairs, Samples, load_policy
from rewardlab.data import Preferences, SamplesData
from rewardlab.data.prompt_data import Prompts
from rewardlab.policies import LatentPolicy
from rewardlab.rewards import Brightness
from rewardlab.seeds import row_seeds
from rewardlab.storage import load_samples, save_samples
from rewardlab.testing import PolicyConformance, tiny_latent_generator
from rewardlab.training import ReFL
from rewardlab.training.trainers import SILENT
from rewardlab.types import concatenate


def policy_of(**options):
    return LatentPolicy(tiny_latent_generator(), shape=[6], **options)


def moved(policy):
    """Return the policy with Gaussians that differ from the standard normal."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.gaussians.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return policy


def distribution(policy, prompts):
    gaussian = policy.gaussians(prompts)
    return Independent(Normal(gaussian.mean, gaussian.log_std.exp()), 1)


class TestShared(PolicyConformance):
    def make(self):
        return moved(policy_of())


class TestTable(PolicyConformance):
    def make(self):
        return moved(policy_of(prompts=list(self.prompts)))


class TestNetwork(PolicyConformance):
    def make(self):
        return moved(policy_of(network_width=8))


class TestVideo(PolicyConformance):
    def make(self):
        return LatentPolicy(tiny_latent_generator(frames=2), shape=[6], micro_batch=2)


class TestTrainedGenerator(PolicyConformance):
    def make(self):
        return policy_of(train_generator=True)


class TestAdapter(PolicyConformance):
    def make(self):
        return policy_of(lora_rank=2)


@pytest.mark.parametrize("options", [{}, {"prompts": ["a", "b"]}, {"network_width": 8}])
def test_likelihood_entropy_and_kl_are_those_of_torch(options):
    policy = moved(policy_of(**options))
    reference = policy_of(**options)
    prompts = ["a", "b", "a"]
    trajectory = policy.sample(prompts, seeds=row_seeds(0, 3))
    expected = distribution(policy, prompts)
    assert_close(policy.log_prob(trajectory)[:, 0], expected.log_prob(trajectory.tensors["latent"]))
    assert_close(policy.entropy(trajectory)[:, 0], expected.entropy())
    base = distribution(reference, prompts)
    assert_close(policy.kl(prompts, reference), kl_divergence(expected, base))


def test_the_kl_is_the_mean_log_ratio_of_samples():
    policy = moved(policy_of())
    reference = policy_of()
    prompts = ["a"] * 4000
    trajectory = policy.sample(prompts, seeds=row_seeds(0, 4000))
    ratios = policy.log_prob(trajectory) - reference.log_prob(trajectory)
    error = ratios.std() / 4000**0.5
    exact = policy.kl(["a"], reference)
    assert abs(ratios.mean() - exact) < 4 * error


def test_a_prompt_moves_only_its_own_gaussian_of_a_table():
    policy = policy_of(prompts=["a", "b"])
    trajectory = policy.sample(["a"], seeds=row_seeds(0, 1))
    policy.log_prob(trajectory).sum().backward()
    gradient = policy.gaussians.mean.grad
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_samples_keep_their_latents_through_files(tmp_path):
    policy = moved(policy_of())
    samples = policy.generate(["a", "b"], seeds=row_seeds(0, 2))
    save_samples(tmp_path / "samples", samples)
    loaded = load_samples(tmp_path / "samples")
    trajectory = policy.encode(loaded, seeds=row_seeds(1, 2))
    assert torch.equal(trajectory.tensors["latent"], samples.facts["latent"])


def test_pictures_without_latents_are_looked_for():
    policy = policy_of(inversion_steps=400)
    samples = policy.generate(["a", "b"], seeds=row_seeds(0, 2))
    bare = Samples(samples.prompts, samples.outputs)
    again = policy.decode(policy.encode(bare, seeds=row_seeds(5, 2)))
    distance = (again.outputs - samples.outputs).abs().mean()
    apart = (samples.outputs[0] - samples.outputs[1]).abs().mean()
    assert distance < 0.1 * apart


def test_latents_of_edited_pictures_are_refused():
    policy = policy_of()
    samples = policy.generate(["a"], seeds=row_seeds(0, 1))
    edited = Samples(samples.prompts, 1 - samples.outputs, samples.facts)
    with pytest.raises(InputError, match="decodes to other pictures"):
        policy.encode(edited, seeds=row_seeds(1, 1))


def test_latents_of_another_size_are_refused():
    policy = policy_of()
    samples = policy.generate(["a"], seeds=row_seeds(0, 1)).with_facts(latent=torch.zeros(1, 5))
    with pytest.raises(InputError, match="5"):
        policy.encode(samples, seeds=row_seeds(1, 1))


def test_unknown_prompts_are_refused():
    with pytest.raises(InputError, match="'c' is none of them"):
        policy_of(prompts=["a", "b"]).check_prompts(["a", "c"])


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        (torch.rand(2, 8, 8), r"\[2, 8, 8\]"),
        (torch.rand(1, 3, 8, 8), r"\[1, 3, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (["a", "b"], "list"),
        (torch.full((2, 3, 8, 8), torch.nan), "NaN"),
        (torch.full((2, 3, 8, 8), 200.0), "divide them by 255"),
    ],
)
def test_what_is_no_picture_is_refused(outputs, sentence):
    policy = LatentPolicy(lambda latents, prompts: outputs, shape=[4])
    with pytest.raises(InputError, match=sentence):
        policy.generate(["a", "b"], seeds=row_seeds(0, 2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompts": ["a"], "network_width": 4}, "got both"),
        ({"prompts": []}, "at least one"),
        ({"prompts": ["a", "a"]}, "distinct"),
        ({"train_generator": True, "lora_rank": 2}, "Leave one out"),
    ],
)
def test_arguments_that_exclude_each_other_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        policy_of(**options)


def test_a_black_box_is_sampled_and_trained_but_not_inverted(tmp_path):
    network = tiny_latent_generator()

    def service(latents, prompts):
        return network(latents, prompts).detach()

    policy = LatentPolicy(service, shape=[6])
    with pytest.raises(InputError, match="Only a torch module"):
        LatentPolicy(service, shape=[6], lora_rank=2)
    samples = policy.generate(["a"], seeds=row_seeds(0, 1))
    with pytest.raises(InputError, match="no torch module"):
        policy.encode(Samples(samples.prompts, samples.outputs), seeds=row_seeds(0, 1))
    policy.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="without its generator"):
        load_policy(tmp_path)
    loaded = LatentPolicy.from_pretrained(tmp_path, service)
    trajectory = policy.encode(samples, seeds=row_seeds(0, 1))
    assert_close(loaded.log_prob(trajectory), policy.log_prob(trajectory))


def test_a_generator_of_transposed_convolutions_takes_no_adapter():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ConvTranspose2d(4, 3, 8)

        def forward(self, latents, prompts):
            return self.layer(latents).sigmoid()

    LatentPolicy(Transposed(), shape=[4, 1, 1]).generate(["a"], seeds=row_seeds(0, 1))
    with pytest.raises(InputError, match="transposed"):
        LatentPolicy(Transposed(), shape=[4, 1, 1], lora_rank=2)


def test_the_copy_shares_a_frozen_generator_and_no_trained_one():
    frozen = policy_of()
    assert frozen.reference().generator is frozen.generator
    trained = policy_of(train_generator=True)
    assert trained.reference().generator is not trained.generator


def fit(module, data, epochs=1):
    pl.Trainer(max_epochs=epochs, **SILENT).fit(module, data)


def brightness(policy, count=256):
    """Return the mean brightness of samples in deviations of the base policy's brightness."""
    samples = policy.generate([""] * count, seeds=row_seeds(9, count))
    base = policy_of().generate([""] * count, seeds=row_seeds(9, count))
    scores = Brightness()(base)
    return ((Brightness()(samples).mean() - scores.mean()) / scores.std()).item()


def test_ppo_makes_the_pictures_brighter():
    policy = policy_of()
    before = brightness(policy)
    module = PPO(policy, Brightness(), optimizer=partial(torch.optim.Adam, lr=0.03))
    fit(module, Prompts([""] * 64, batch_size=32), epochs=8)
    assert brightness(policy) > before + 0.5
    assert policy.kl([""], module.reference) > 0


@pytest.mark.parametrize("options", [{}, {"train_generator": True}, {"lora_rank": 2}])
def test_refl_reaches_the_gaussian_and_the_generator(options):
    policy = policy_of(**options)
    weight = policy.generator.layers[2].weight.detach().clone()
    adapters = [p for p in policy.generator.parameters() if p.requires_grad]
    old = [p.detach().clone() for p in adapters]
    before = brightness(policy)
    module = ReFL(policy, Brightness(), optimizer=partial(torch.optim.Adam, lr=0.03))
    fit(module, Prompts([""] * 32, batch_size=16), epochs=8)
    assert brightness(policy) > before + 0.5
    if not options:
        assert torch.equal(policy.generator.layers[2].weight, weight)
    else:
        assert any(not torch.equal(a, b) for a, b in zip(adapters, old, strict=True))


def halves(policy):
    """Return the brighter and the darker half of 64 samples."""
    samples = policy.generate([""] * 64, seeds=row_seeds(0, 64))
    order = Brightness()(samples).argsort(descending=True)
    return samples[order[:32]], samples[order[32:]]


def test_sft_on_the_brighter_half_makes_the_pictures_brighter():
    policy = policy_of()
    before = brightness(policy)
    brighter, _ = halves(policy)
    module = SFT(policy, optimizer=partial(torch.optim.Adam, lr=0.03))
    fit(module, SamplesData(brighter, batch_size=16), epochs=8)
    assert brightness(policy) > before + 0.5


def test_dpo_prefers_the_brighter_half():
    policy = policy_of()
    before = brightness(policy)
    pairs = PreferencePairs(*halves(policy))
    module = DPO(policy, optimizer=partial(torch.optim.Adam, lr=0.03))
    fit(module, Preferences(pairs, held_out=0.1, batch_size=16), epochs=8)
    assert brightness(policy) > before + 0.5


def test_samples_join_with_their_latents():
    policy = policy_of()
    parts = [policy.generate(["a"], seeds=row_seeds(seed, 1)) for seed in (0, 1)]
    assert concatenate(parts).facts["latent"].shape == (2, 6)
