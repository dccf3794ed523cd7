"""The optimum of GAN-RM's loss is the density ratio, and the target distribution with a KL of 1."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.losses import discrimination_loss
from rewardlab.types import balanced

STATES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("states.py"))))
P = STATES.P
Q = STATES.Q
counted = STATES.counted


def fitted(states, labels, weights, **options):
    """The tabular logit [4] that minimises the loss, by Newton's steps: its Hessian is diagonal."""
    table = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    mass = torch.zeros(4, dtype=torch.float64)
    mass.index_add_(0, states, weights.double())
    mass = mass / weights.sum()
    for _ in range(50):
        loss = discrimination_loss(table[states][:, None], labels, weights[:, None], **options)
        (slope,) = torch.autograd.grad(loss, table)
        chance = table.detach().sigmoid()
        table.data -= slope / (mass * chance * (1 - chance)).clamp_min(1e-12)
    return table.detach()


class TestDensityRatio:
    """State k's logit minimizes a·softplus(-l) + b·softplus(l), so l = log(a/b).

    Tolerance: a float32 gradient of a mean of terms of at most 1 errs by less than 1e-6 (measured:
    2e-7 at the exact logit). The curvature is mass · σ(l) · σ(-l), at least (3/16)(2/3)(1/3) = 0.04
    for balanced classes. So the logit errs by less than 1e-6/0.04 = 2.4e-5. Elsewhere the curvature
    is at least 0.01, hence 1e-4.
    """

    truth = torch.log(P / Q)

    @pytest.mark.parametrize(("targets", "generated"), [(64, 64), (64, 640), (800, 16)])
    def test_balanced_weights_recover_it_whatever_the_prior(self, targets, generated):
        states, labels = counted(targets, generated)
        logits = fitted(states, labels, balanced(labels))
        torch.testing.assert_close(logits, self.truth, atol=2.4e-5, rtol=0)

    def test_without_them_the_prior_stays_in_it(self):
        states, labels = counted(64, 640)
        logits = fitted(states, labels, torch.ones(len(labels)))
        expected = self.truth + math.log(64 / 640)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)

    def test_label_smoothing_bounds_it(self):
        """Smoothing by s puts σ(l) into [s/2, 1 - s/2], so |l| is at most log(2/s - 1)."""
        states = torch.tensor([0, 1, 1, 2])
        labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
        logits = fitted(states, labels, balanced(labels), label_smoothing=0.1)[:3]
        limit = math.log(2 / 0.1 - 1)
        expected = torch.tensor([limit, 0.0, -limit], dtype=torch.float64)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)

    def test_the_regularised_optimum_with_beta_1_is_the_target_distribution(self):
        """The maximum of E_π[R] - β·KL(π, q) is π ∝ q·exp(R/β).

        With R = log p/q and β = 1 that is p. Any other β misses it.
        """
        states, labels = counted(64, 640)
        reward = fitted(states, labels, balanced(labels))
        distances = {}
        for beta in (0.3, 0.7, 1, 1.5, 5):
            optimum = torch.softmax(Q.log() + reward / beta, 0)
            distances[beta] = (optimum - P).abs().sum().item() / 2
        assert distances.pop(1) < 1e-4
        assert min(distances.values()) > 0.05

    def test_the_regularised_optimum_of_the_exact_logit_is_exact(self):
        torch.testing.assert_close(torch.softmax(Q.log() + self.truth, 0), P, atol=1e-15, rtol=0)

    def test_the_probability_as_a_reward_does_not_recover_it(self):
        sharp = torch.softmax(Q.log() + self.truth.sigmoid(), 0)
        assert (sharp - P).abs().sum() / 2 > 0.1
