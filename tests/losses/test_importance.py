"""Importance weights: exact where all outcomes are known, and refused where few decide."""

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.losses import bradley_terry_loss, importance_weights


def test_the_weighted_loss_is_the_loss_under_the_other_policy():
    """All pairs of four outputs, drawn by one policy and weighted for another."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(4, generator=draw, dtype=torch.float64)
    behavior, now = torch.randn(2, 4, generator=draw, dtype=torch.float64).log_softmax(1)
    w, o = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    of_pairs = [policy[w] + policy[o] for policy in (behavior, now)]
    weights = importance_weights(of_pairs[1] - of_pairs[0], quantile=1.0).weights
    counts = of_pairs[0].exp() * weights
    found = bradley_terry_loss(scores[w], scores[o], weights=counts)
    expected = bradley_terry_loss(scores[w], scores[o], weights=of_pairs[1].exp())
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    plain = bradley_terry_loss(scores[w], scores[o], weights=of_pairs[0].exp())
    assert found.item() != pytest.approx(plain.item(), rel=1e-3)


def test_the_effective_sample_size_is_kishs_and_a_constant_changes_nothing():
    logs = torch.tensor([1.0, 2.0, 2.0, 0.5])
    whole = importance_weights(logs, quantile=1.0)
    raw = logs.double().exp()
    assert whole.effective_share == pytest.approx((raw.sum() ** 2 / raw.square().sum() / 4).item())
    assert torch.allclose(importance_weights(logs + 500, quantile=1.0).weights, whole.weights)
    assert whole.weights.mean().item() == pytest.approx(1)
    alike = importance_weights(torch.zeros(7))
    assert (alike.weights == 1).all()
    assert (alike.effective_share, alike.clipped) == (1, 0)


def test_the_clip_bounds_and_few_that_decide_are_refused():
    logs = torch.zeros(100)
    logs[0] = 30.0
    clipped = importance_weights(logs, quantile=0.95)
    assert clipped.clipped == 1
    assert clipped.effective_share > 0.99
    with pytest.raises(InputError, match=r"size of 1\.0, below a tenth"):
        importance_weights(logs, quantile=1.0)
    for wrong, words in ((0.0, "got 0"), (1.5, r"got 1\.5")):
        with pytest.raises(InputError, match=words):
            importance_weights(logs, quantile=wrong)
    with pytest.raises(InputError, match="1 of 2 that are not finite"):
        importance_weights(torch.tensor([0.0, float("nan")]))
