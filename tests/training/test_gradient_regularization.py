"""Gradient regularization: exactly γ·H·g on a quadratic, and the same inside of PPO."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import SGD
from torch.testing import assert_close

from rewardlab import DiffusionPolicy, InputError
from rewardlab.policies import CausalLMPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Brightness, Function, Length
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import PPO, GradientRegularization

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
fit = LETTERS.fit
weights = LETTERS.weights
HESSIAN = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 4.0]])
EXACT = {"epsilon": 2.0**-10, "clip": None}  # powers of two, so that nothing is rounded


class Quadratic(nn.Module):
    """½·θᵀHθ of a vector in two parts, of which the second is called an embedding."""

    def __init__(self):
        super().__init__()
        self.body = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.embedding = nn.Parameter(torch.tensor([3.0]))

    def accumulate(self):
        theta = torch.cat([self.body, self.embedding])
        (0.5 * theta @ HESSIAN @ theta).backward()

    def gradient(self):
        return torch.cat([self.body.grad, self.embedding.grad])


def regularized(**options):
    model = Quadratic()
    model.accumulate()
    before = model.gradient().clone()
    parameters = dict(model.named_parameters())
    change = GradientRegularization(**{**EXACT, **options})(parameters, model.accumulate)
    assert model.body.tolist() == [1.0, -2.0]
    assert model.embedding.tolist() == [3.0]
    return before, model.gradient(), change


@pytest.mark.parametrize("weight", [0.25, 2.0**-10, 4.0])
def test_on_a_quadratic_the_added_term_is_the_hessian_times_the_gradient(weight):
    before, after, change = regularized(weight=weight, left_out=())
    added = HESSIAN @ before
    assert torch.equal(after - before, weight * added)
    assert_close(change, torch.linalg.vector_norm(added))


def test_with_a_weight_of_epsilon_it_is_the_gradient_at_the_perturbed_point():
    before, after, _ = regularized(weight=EXACT["epsilon"], left_out=())
    theta = torch.tensor([1.0, -2.0, 3.0]) + EXACT["epsilon"] * before
    assert_close(after, HESSIAN @ theta, atol=0, rtol=0)


def test_what_is_left_out_stays_where_it_is_and_keeps_its_gradient():
    before, after, change = regularized(weight=0.25)
    body = HESSIAN[:2, :2] @ before[:2]  # the embedding does not move
    assert torch.equal(after[:2] - before[:2], 0.25 * body)
    assert after[2] == before[2]
    assert_close(change, torch.linalg.vector_norm(body))


def test_both_gradients_are_clipped_before_they_are_used():
    before, after, _ = regularized(weight=0.5, clip=1.0, epsilon=0.25, left_out=())
    first = before / torch.linalg.vector_norm(before)
    second = before + 0.25 * HESSIAN @ first
    second = second / torch.linalg.vector_norm(second)
    assert_close(after, first + 2 * (second - first), atol=1e-5, rtol=0)


def module(**options):
    settings = {"kl_weight": 0.1, "gradient_clip": None, "optimizer": partial(SGD, lr=0.3)}
    return PPO(Letters(steps=4), LETTERS.VALUE, **settings | options)


def gradient_at(policy, loss, theta):
    """The gradient of a loss of the policy with other weights, by autograd."""
    with torch.no_grad():
        before = policy.next.weight.clone()
        policy.next.weight.copy_(theta)
    (gradient,) = torch.autograd.grad(loss(), policy.next.weight)
    with torch.no_grad():
        policy.next.weight.copy_(before)
    return gradient


def test_a_step_of_ppo_is_that_of_the_regularized_loss():
    regularize = GradientRegularization(weight=0.05, epsilon=1e-2, clip=None)
    loop = module()
    experience = loop.collect([""] * 8, torch.arange(8))
    mask = experience.rollout.trajectory.mask

    def loss():
        return loop.loss(experience, mask / mask.sum())[0]

    policy = loop.policy
    start = policy.next.weight.detach().clone()
    first = gradient_at(policy, loss, start)
    second = gradient_at(policy, loss, start + 1e-2 * first)
    expected = start - 0.3 * (first + 0.05 / 1e-2 * (second - first))
    values = []

    class Change(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            values.append(trainer.callback_metrics["gradient_change"])

    trained = module(gradient_regularization=regularize)
    fit(trained, callbacks=[Change()], max_steps=1, max_epochs=-1)
    assert_close(trained.policy.next.weight, expected, atol=1e-6, rtol=0)
    assert_close(values[0], torch.linalg.vector_norm(second - first) / 1e-2)
    graph = torch.autograd.grad(loss(), policy.next.weight, create_graph=True)[0]
    (hessian,) = torch.autograd.grad((graph * first).sum(), policy.next.weight)
    assert_close((second - first) / 1e-2, hessian, atol=0.02 * hessian.abs().max().item(), rtol=0)
    assert hessian.norm() > 0.1 * first.norm()


def test_a_weight_of_zero_is_the_plain_step_to_the_bit(monkeypatch):
    calls = []
    apply = Letters.apply_loss

    def counted(self, *args, **options):
        calls.append(1)
        return apply(self, *args, **options)

    monkeypatch.setattr(Letters, "apply_loss", counted)
    found = []
    for regularize in (None, GradientRegularization(weight=0.0), GradientRegularization(0.5)):
        loop = module(gradient_regularization=regularize, epochs=2)
        fit(loop, max_epochs=2)
        found.append(weights(loop))
        calls.append(0)
    plain, zero, other = "".join(map(str, calls)).split("0")[:3]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert (len(zero), len(other)) == (len(plain), 2 * len(plain))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_micro_batches_change_nothing(clip):
    found = []
    for micro_batch in (None, 5):
        loop = module(
            gradient_regularization=GradientRegularization(0.05, 1e-2),
            micro_batch=micro_batch,
            gradient_clip=clip,
            advantage="generalized",
            minibatch=12,
        )
        fit(loop, max_epochs=2)
        found.append(weights(loop))
    assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_adapters_of_texts_and_images_are_trained_so():
    language = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3, lora_rank=2)
    pictures = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2), lora_rank=2)
    spelling = Function(
        lambda samples: torch.tensor([sum(map(ord, text)) / 100 for text in samples.outputs])
    )
    for policy, reward, clip in ((language, spelling, 0.2), (pictures, Brightness(), 1e-4)):
        regularize = GradientRegularization()
        loop = PPO(policy, reward, clip=clip, gradient_regularization=regularize)
        trainer = fit(loop, prompts=2, batch_size=2, max_epochs=1)
        assert trainer.callback_metrics["gradient_change"] > 0
        assert weights(loop).isfinite().all()


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="epsilon=0"):
        GradientRegularization(epsilon=0.0)
    with pytest.raises(InputError, match="other patterns"):
        regularized(left_out=("*",))
    narrow = CausalLMPolicy(
        tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3, lora_rank=2, dtype="bfloat16"
    )
    regularize = GradientRegularization()
    with pytest.raises(InputError, match="bfloat16 and float32"):
        fit(PPO(narrow, Length(), gradient_regularization=regularize), max_epochs=1)
    with pytest.raises(InputError, match="bf16-mixed"):
        fit(module(gradient_regularization=regularize), max_epochs=1, precision="bf16-mixed")
