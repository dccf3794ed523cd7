"""Accumulated gradients are those of one batch, and a tie is half right."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from rewardlab import (
    DiffusionPolicy,
    LanguageReward,
    PreferencePairs,
    Sampler,
    Samples,
    VisionReward,
)
from rewardlab.data import PairsData, Prompts, SamplesData, TargetSamples
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.rewards import Brightness, Judged, Reward
from rewardlab.rewards.abilities import Partial
from rewardlab.rewards.unscored import partial_scores
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer, tiny_tower
from rewardlab.training import DPO, GANRM, SFT, AdvRM, ReFL, VelocityMatching
from rewardlab.training.trainers import SILENT

SGD = partial(torch.optim.SGD, lr=1.0)
TEXTS = Samples(["q"] * 6, ["a", "b" * 40, "c", "d" * 30, "e" * 5, "f" * 20])
PAIRS = PreferencePairs(TEXTS, Samples(TEXTS.prompts, list(reversed(TEXTS.outputs))))
WEIGHED = PreferencePairs(
    TEXTS.with_facts(weight=torch.tensor([0.0, 3.0, 1.0, 0.5, 2.0, 0.0])), PAIRS.rejected
)
BUDGET = {"tokens_per_batch": 90}
PICTURES = Samples([""] * 6, torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def policy_of(samples):
    if isinstance(samples.outputs, torch.Tensor):
        return DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())


def gradient(loop, make_data, batch, parts, **options):
    """Return what one step of plain SGD with rate 1 takes off the weights."""
    before = flat(loop)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=parts,
        **SILENT,
        **options,
    )
    trainer.fit(loop, make_data(batch_size=batch))
    assert trainer.global_step == 1
    return before - flat(loop)


def flat(loop):
    trained = [p.detach().clone().flatten() for p in loop.parameters() if p.requires_grad]
    return torch.cat(trained)


DARK = 0.55


class Dark(Reward, Partial):
    """The brightness of dark pictures; the others are not scored."""

    most_unscored = 1.0

    def judge(self, samples):
        scores = Brightness()(samples)
        bright = scores.detach() > DARK
        return Judged(scores, ["too bright" if row else "" for row in bright.tolist()])

    def forward(self, samples):
        return partial_scores(self, samples)


@pytest.mark.parametrize("reward", [Brightness, Dark])
@pytest.mark.parametrize("kind", [ReFL, partial(VelocityMatching, samples_per_prompt=5)])
@pytest.mark.parametrize(("batch", "parts"), [(2, 4), (5, 2)])
def test_the_gradient_of_a_climb_is_the_batchs(reward, kind, batch, parts):
    """Seven prompts, so the last batch is smaller; of each batch another share is scored."""
    gradients = []
    data = partial(Prompts, [""] * 7)
    for size, count in ((7, 1), (batch, parts)):
        policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
        loop = kind(policy, reward(), optimizer=SGD)
        gradients.append(gradient(loop, data, size, count))
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("samples", [TEXTS, PICTURES], ids=["texts", "pictures"])
@pytest.mark.parametrize(("batch", "parts"), [(1, 6), (2, 3), (4, 2), (5, 8)])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_the_gradient_of_sft_is_the_batchs(samples, batch, parts, clip):
    options = {"gradient_clip_val": clip}
    data = partial(SamplesData, samples)
    whole = gradient(SFT(policy_of(samples), optimizer=SGD), data, 6, 1, **options)
    accumulated = gradient(SFT(policy_of(samples), optimizer=SGD), data, batch, parts, **options)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_of_the_mean_over_all_steps():
    """By an independent computation: the sum of all tokens' surprisals over their number."""
    policy = policy_of(TEXTS)
    trajectory = policy.encode(TEXTS, seeds=torch.arange(6))
    log_probs = policy.log_prob(trajectory)
    (-log_probs.sum() / trajectory.mask.sum()).backward()
    trained = [p for p in policy.parameters() if p.requires_grad]
    expected = torch.cat([p.grad.flatten() for p in trained])
    accumulated = gradient(SFT(policy_of(TEXTS), optimizer=SGD), partial(SamplesData, TEXTS), 2, 3)
    torch.testing.assert_close(accumulated, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("batch", "parts"), [(1, 6), (4, 2), (5, 2)])
def test_the_gradient_of_dpo_is_the_batchs_where_the_last_batch_is_small(batch, parts):
    rejected = Samples(TEXTS.prompts, list(reversed(TEXTS.outputs)))
    data = partial(PairsData, PreferencePairs(TEXTS, rejected))
    whole = gradient(DPO(policy_of(TEXTS), optimizer=SGD), data, 6, 1)
    accumulated = gradient(DPO(policy_of(TEXTS), optimizer=SGD), data, batch, parts)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def reward_loop():
    """A loop whose members count each pair differently often, with a term beside the likelihood."""
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=3, seed=1)
    return AdvRM(reward, centering=0.5, optimizer=SGD)


@pytest.mark.parametrize("pairs", [PAIRS, WEIGHED], ids=["plain", "weighed"])
@pytest.mark.parametrize("batch", [{"batch_size": 1}, {"batch_size": 4}, BUDGET])
def test_the_gradient_of_a_reward_is_the_batchs_whatever_batches_hold(pairs, batch):
    data = partial(PairsData, pairs)
    whole = gradient(reward_loop(), data, 6, 1)
    accumulated = gradient(reward_loop(), partial(with_batches, data, batch), 6, 99)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def texts_and_loop():
    """Six targets against ten generated texts, whose classes have unequal weights a row."""
    negatives = Samples(["q"] * 10, ["z" * (1 + 3 * row) for row in range(10)])
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=3, seed=1)
    data = partial(TargetSamples, TEXTS, negatives, held_out=2)
    return data, GANRM(reward, folds=2, optimizer=SGD)


def pictures_and_loop():
    """The same of pictures on a frozen tower, whose features are computed once."""
    pixels = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    targets = Samples([""] * 6, pixels[:6])
    negatives = Samples([""] * 10, pixels[6:])
    reward = VisionReward(tiny_tower(), heads=3, width=8)
    data = partial(TargetSamples, targets, negatives, held_out=2)
    return data, GANRM(reward, folds=2, optimizer=SGD)


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (texts_and_loop, {"batch_size": 1}),
        (texts_and_loop, {"batch_size": 5}),
        (texts_and_loop, BUDGET),
        (pictures_and_loop, {"batch_size": 5}),
    ],
)
def test_the_gradient_of_gan_rm_is_the_batchs_whatever_batches_hold(make, batch):
    """Rows weigh unequally: by class, by each head's bootstrap, and by its fold."""
    gradients = []
    for data_options, parts in (({"batch_size": 99}, 1), (batch, 99)):
        data, loop = make()
        budgeted = partial(with_batches, data, data_options)
        options = {"limit_val_batches": 0, "num_sanity_val_steps": 0}
        gradients.append(gradient(loop, budgeted, 99, parts, **options))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


def with_batches(data, batch, batch_size):
    """Return the data in other batches than `gradient` asks for."""
    return data(**batch)


@pytest.mark.parametrize("loop", [SFT, DPO])
def test_the_gradient_of_batches_of_a_token_budget_is_that_of_all_rows(loop):
    data = partial(SamplesData, TEXTS) if loop is SFT else partial(PairsData, PAIRS)
    whole = gradient(loop(policy_of(TEXTS), optimizer=SGD), data, 6, 1)
    budgeted = partial(with_batches, data, BUDGET)
    accumulated = gradient(loop(policy_of(TEXTS), optimizer=SGD), budgeted, 6, 99)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("samples", [TEXTS, PICTURES], ids=["texts", "pictures"])
def test_a_policy_that_is_its_reference_is_half_right(samples):
    module = DPO(policy_of(samples))
    seen = {}
    module.log_dict = lambda figures, **_: seen.update(figures)
    module._loss(PreferencePairs(samples[:2], samples[2:4]), "")
    assert float(seen["loss"]) == pytest.approx(0.6931, abs=1e-4)
    assert float(seen["accuracy"]) == 0.5
