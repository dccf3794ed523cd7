"""The clipped surrogate branch by branch, and each KL estimate's mean and gradient against
enumeration.
"""

import pytest
import torch
from torch.testing import assert_close

from rewardlab.losses.kl import absolute, adapted_weight, k1, k2, k3
from rewardlab.losses.policy_gradient import (
    log_ratio,
    ppo_loss,
    step_weights,
    surrogate,
    value_error,
    value_loss,
)

MASK = torch.tensor([[True, True, True], [True, False, False]])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.4, True),  # better, and already far: held at 1.2
        (0.5, 2.0, -1.0, False),  # better, and moved away from it: free to come back
        (0.5, -2.0, 1.6, True),  # worse, and already far: held at 0.8
        (1.5, -2.0, 3.0, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_the_surrogate_is_equation_7(ratio, advantage, loss, clipped):
    log_prob = torch.tensor([[ratio]]).log().requires_grad_()
    one = torch.ones(1, 1)
    losses, held = surrogate(log_prob, 0 * one, advantage * one, one.bool(), clip=0.2)
    assert_close(losses.item(), loss)
    assert held.item() == clipped
    (gradient,) = torch.autograd.grad(losses.sum(), log_prob)
    assert_close(gradient.item(), 0.0 if clipped else -ratio * advantage, atol=1e-6, rtol=1e-6)


def test_at_ratio_one_it_is_reinforce():
    log_prob, advantages = drawn(2, 3).requires_grad_(), drawn(2, 1, seed=1)
    loss, clipped = ppo_loss(
        log_prob,
        log_prob.detach(),
        advantages,
        MASK,
        clip=1e-4,
        normalization="constant",
        constant=1,
    )
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert_close(gradient, -advantages * MASK / 2)
    assert clipped == 0


def test_what_is_masked_is_neither_read_nor_given_a_gradient():
    log_prob = torch.where(MASK, drawn(2, 3), float("nan")).requires_grad_()
    values = torch.where(MASK, drawn(2, 3, seed=1), float("inf")).requires_grad_()
    old = torch.full((2, 3), -0.5)
    loss, clipped = ppo_loss(
        log_prob, old, torch.where(MASK, drawn(2, 3), float("nan")), MASK, clip=0.2
    )
    critic = value_loss(values, old, torch.zeros(2, 3), MASK, clip=0.2)
    for gradient in torch.autograd.grad(
        loss + critic + k3(log_ratio(log_prob, old, MASK)).sum(), (log_prob, values)
    ):
        assert gradient.isfinite().all()
        assert gradient[~MASK].abs().max() == 0
    assert 0 < clipped < 1


def test_log_ratios_are_clamped_before_exp_and_in_float32():
    far = torch.tensor([[1e4, -1e4, 0.5]]).bfloat16()
    found = log_ratio(far, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
    assert found.dtype == torch.float32
    assert found.tolist() == [[10.0, -10.0, 0.5]]


def test_weights_are_the_three_normalisations():
    values = drawn(2, 3)
    mean_of = {
        name: (step_weights(MASK, name) * values).sum()
        for name in ("token", "sequence", "constant")
    }
    assert_close(mean_of["token"], values[MASK].mean())
    assert_close(mean_of["sequence"], (values[0].mean() + values[1, 0]) / 2)
    assert_close(mean_of["constant"], values[MASK].sum() / 6)
    assert_close((step_weights(MASK, "constant", 10) * values).sum(), values[MASK].sum() / 20)


def test_a_loss_with_weights_is_the_sum_of_its_parts():
    log_prob, old, advantages = drawn(2, 3), drawn(2, 3, seed=1), drawn(2, 3, seed=2)
    whole, _ = ppo_loss(log_prob, old, advantages, MASK, clip=0.2, normalization="sequence")
    weights = step_weights(MASK, "sequence")
    parts = [
        surrogate(*(x[i : i + 1] for x in (log_prob, old, advantages, MASK)), clip=0.2)[0]
        for i in range(2)
    ]
    assert_close(whole, sum((weights[i] * part[0]).sum() for i, part in enumerate(parts)))


def test_the_critic_may_not_move_far_in_one_batch():
    one = torch.ones(1, 1)
    assert_close(value_error(1.1 * one, one, 2 * one, one.bool(), clip=0.2).item(), 0.5 * 0.9**2)
    values = (1.9 * one).requires_grad_()
    error = value_error(
        values, one, 2 * one, one.bool(), clip=0.2
    )  # nearer than the clip allows: held at 1.2
    assert_close(error.item(), 0.5 * 0.8**2)
    assert torch.autograd.grad(error.sum(), values)[0].item() == 0


class TestKL:
    """KL(π ‖ π_ref) of a categorical with five outcomes, in float64; expectations are sums.

    A loss is differentiated with the samples held fixed; a penalty in the reward is detached, and
    multiplies ∇log π.
    """

    logits = drawn(5).double().requires_grad_()
    policy = logits.log_softmax(0)
    reference = drawn(5, seed=1).double().log_softmax(0)
    ratio = policy - reference
    chance = policy.exp()

    def gradient(self, value):
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]

    def as_loss(self, estimate):
        return self.gradient((self.chance.detach() * estimate(self.ratio)).sum())

    def in_reward(self, estimate):
        return self.gradient(
            (self.chance.detach() * estimate(self.ratio).detach() * self.policy).sum()
        )

    @property
    def exact(self):
        return self.gradient((self.chance * self.ratio).sum())

    @property
    def forward(self):
        return self.gradient((self.reference.exp() * (self.reference - self.policy)).sum())

    def test_means(self):
        kl = (self.chance * self.ratio).sum()
        means = {
            estimate: (self.chance * estimate(self.ratio)).sum()
            for estimate in (k1, k2, k3, absolute)
        }
        assert_close(means[k1], kl)
        assert_close(means[k3], kl)
        assert abs(means[k2] - kl) > 0.03
        assert means[absolute] > kl
        near = 0.01 * self.ratio.detach()
        chance = (near + self.reference).log_softmax(0).exp()
        near = chance.log() - self.reference
        assert_close(
            (chance * k2(near)).sum(), (chance * near).sum(), rtol=0.02, atol=0
        )  # right to second order

    def test_k1_in_the_reward_has_the_exact_gradient_and_none_as_a_loss(self):
        assert_close(self.in_reward(k1), self.exact)
        assert self.as_loss(k1).abs().max() < 1e-12

    def test_k2_as_a_loss_has_the_exact_gradient(self):
        assert_close(self.as_loss(k2), self.exact)

    def test_k3_as_a_loss_has_the_gradient_of_the_other_divergence(self):
        assert_close(self.as_loss(k3), self.forward)
        assert not torch.allclose(self.as_loss(k3), self.exact, atol=0.05)

    def test_the_absolute_mean_has_the_gradient_of_no_divergence(self):
        found = self.in_reward(absolute)
        assert not torch.allclose(found, self.exact, atol=0.05)
        rarer = (self.ratio < 0).nonzero().flatten()
        assert len(rarer) > 0
        for outcome in (
            rarer.tolist()
        ):  # against a weight on this outcome alone: it is punished for having become rarer
            assert absolute(self.ratio)[outcome] > 0 > k1(self.ratio)[outcome]


def test_the_adaptive_weight_moves_towards_its_target_by_two_percent_at_most():
    assert adapted_weight(0.5, 1.0, 1.0) == 0.5
    assert_close(adapted_weight(0.5, 100.0, 1.0), 0.51)
    assert_close(adapted_weight(0.5, -3.0, 1.0), 0.49)
    assert_close(adapted_weight(0.5, 1.1, 1.0), 0.505)
