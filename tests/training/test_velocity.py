"""Velocity matching: fixed points, the exact tilt of a Gaussian, resumes, and brighter pictures."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.testing import assert_close

from rewardlab import DiffusionPolicy, InputError, Sampler
from rewardlab.data.prompt_data import Prompts
from rewardlab.losses import nft_loss, norm_hinge, norm_ratios, ram_loss
from rewardlab.policies.noising import NoiseLevels, noising, predicted_x0, velocity_of
from rewardlab.rewards import Brightness, Length
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import VelocityMatching
from rewardlab.training.trainers import SILENT

TILT = 0.7


def numbers(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_without_advantages_the_reference_is_rams_fixed_point():
    reference = numbers(0, 5, 2, 3)
    output = reference.clone().requires_grad_()
    loss = ram_loss(output, reference, numbers(1, 5, 2, 3), torch.zeros(5))
    (gradient,) = torch.autograd.grad(loss, output)
    assert loss == 0
    assert gradient.abs().max() == 0


def test_without_advantages_the_old_policy_is_nfts_fixed_point():
    old = numbers(0, 5, 2, 3)
    output = old.clone().requires_grad_()
    loss = nft_loss(output, old, numbers(1, 5, 2, 3), torch.zeros(5), beta=0.3)
    (gradient,) = torch.autograd.grad(loss, output)
    assert_close(gradient, torch.zeros_like(gradient))


def test_nft_is_the_papers_formula():
    output, old, target = (numbers(seed, 4, 1, 2) for seed in range(3))
    advantages = torch.tensor([-3.0, -0.5, 0.25, 9.0], dtype=torch.float64)
    beta = 0.4
    share = [0.0, 0.25, 0.625, 1.0]
    expected = 0.0
    for row in range(4):
        good = ((1 - beta) * old[row] + beta * output[row] - target[row]).square().mean()
        bad = ((1 + beta) * old[row] - beta * output[row] - target[row]).square().mean()
        expected += (share[row] * good + (1 - share[row]) * bad) / 4
    assert_close(nft_loss(output, old, target, advantages, beta), expected)


def gaussian_velocity(mean, x, time):
    """Return E[ε - x0 | x_t] for x0 of N(mean, 1) and x_t = (1 - t)·x0 + t·ε."""
    variance = (1 - time) ** 2 + time**2
    residual = x - (1 - time) * mean
    expected_x0 = mean + (1 - time) * residual / variance
    expected_noise = time * residual / variance
    return expected_noise - expected_x0


@pytest.mark.parametrize("time", [0.2, 0.5, 0.9])
def test_on_a_gaussian_with_a_linear_reward_rams_fixed_point_is_the_exact_tilt(time):
    """Tilting N(0, 1) by exp(0.7·x) gives N(0.7, 1): there RAM's mean gradient is 0."""
    count = 400_000
    x0 = TILT + numbers(0, count, 1, 1)
    noise = numbers(1, count, 1, 1)
    x = (1 - time) * x0 + time * noise
    reference = gaussian_velocity(0.0, x, time)
    for mean, is_fixed in ((TILT, True), (0.0, False)):
        shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        output = gaussian_velocity(mean, x, time) + shift[0] + shift[1] * x
        loss = ram_loss(output, reference, noise - x0, TILT * x0.flatten())
        (gradient,) = torch.autograd.grad(loss, shift)
        residual = output - reference - TILT * x0 * (noise - x0 - output)
        errors = torch.stack([residual.std(), (residual * x).std()]) * 2 / count**0.5
        assert bool((gradient.abs() < 4 * errors).all()) == is_fixed


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_velocity_is_that_of_the_clean_sample_and_the_noise(prediction):
    table = noising(tiny_diffusion(prediction_type=prediction).scheduler)
    steps = torch.tensor([10, 400, 900])
    levels = table.at(steps)
    x0, noise = numbers(0, 3, 4).float(), numbers(1, 3, 4).float()
    signal, level, target_signal, target_noise = levels.over(1)
    x = signal * x0 + level * noise
    output = target_signal * x0 + target_noise * noise
    velocity = signal * noise - level * x0
    factor = (target_noise * signal - level * target_signal).abs()
    assert_close(velocity_of(x, output, levels), factor * velocity, atol=1e-4, rtol=1e-3)
    assert_close(predicted_x0(x, output, levels), x0, atol=2e-2, rtol=1e-2)


def test_the_hinge_is_of_ratios_above_1_only():
    velocity = numbers(0, 2, 3, 4).float()
    assert_close(norm_ratios(velocity, velocity), torch.ones(2, 3))
    assert norm_hinge(norm_ratios(0.5 * velocity, velocity)) == 0
    assert_close(norm_hinge(norm_ratios(1.5 * velocity, velocity)), torch.tensor(0.25))


def policy_of(**options):
    sampler = Sampler(steps=4, eta=0.0)
    pipeline = tiny_diffusion(classes=0, flow=options.pop("flow", False))
    return DiffusionPolicy(pipeline, sampler=sampler, draws=2, **options)


def brightness(policy, count=256):
    """Return the brightness of samples from the same seeds each time."""
    samples = policy.eval().generate([""] * count, seeds=row_seeds(99, count))
    return Brightness()(samples)


@pytest.mark.parametrize("form", ["nft", "ram"])
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}, {"flow": True}])
def test_the_pictures_get_brighter(form, options):
    policy = policy_of(**options)
    before = brightness(policy)
    fast = partial(torch.optim.Adam, lr=1e-2)
    loop = VelocityMatching(policy, Brightness(), form, samples_per_prompt=16, optimizer=fast)
    trainer = pl.Trainer(max_epochs=12, **SILENT)
    trainer.fit(loop, Prompts([""] * 2, batch_size=2))
    gains = brightness(policy) - before
    assert gains.mean() > 4 * gains.std() / len(gains) ** 0.5
    assert trainer.callback_metrics["norm_ratio"] > 0


def test_the_reward_needs_no_gradient():
    class Blind(Brightness):
        def forward(self, samples):
            assert not torch.is_grad_enabled()
            return super().forward(samples).detach()

    loop = VelocityMatching(policy_of(), Blind(), samples_per_prompt=2)
    pl.Trainer(max_epochs=1, **SILENT).fit(loop, Prompts([""] * 2, batch_size=2))


def trained(tmp_path, epochs, checkpoint=None):
    loop = VelocityMatching(policy_of(), Brightness(), samples_per_prompt=4, decay=0.8)
    trainer = pl.Trainer(max_epochs=epochs, **SILENT)
    trainer.fit(loop, Prompts([""] * 4, batch_size=2), ckpt_path=checkpoint)
    trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
    return loop


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    straight = trained(tmp_path, epochs=4)
    trained(tmp_path, epochs=2)
    resumed = trained(tmp_path, epochs=4, checkpoint=tmp_path / "2.ckpt")
    for one, other in zip(straight.average.tensors, resumed.average.tensors, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(straight.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_average_stands_in_and_goes_again():
    loop = VelocityMatching(policy_of(), Brightness())
    parameter = next(loop.policy.parameters())
    with torch.no_grad():
        parameter += 1
    moved = parameter.detach().clone()
    with loop.average.in_place():
        assert_close(parameter, moved - 1)
    assert torch.equal(parameter, moved)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "grpo"}, "forms"),
        ({"samples_per_prompt": 1}, "samples_per_prompt"),
        ({"beta": 0.0}, "beta"),
        ({"decay": 1.0}, "decay"),
    ],
)
def test_numbers_out_of_range_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        VelocityMatching(policy_of(), Brightness(), **options)


def test_a_language_model_is_refused():
    from rewardlab import CausalLMPolicy

    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(InputError, match="a CausalLMPolicy does not"):
        VelocityMatching(policy, Length())


def test_levels_keep_their_shape():
    half = torch.full((2,), 0.5)
    levels = NoiseLevels(half, half, -half, half)
    assert velocity_of(torch.ones(2, 3), torch.ones(2, 3), levels).shape == (2, 3)
