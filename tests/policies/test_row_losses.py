"""A new loss of pairs, written once as a function of totals and rows, on both modalities."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels import policy_loss
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training.base import step_total
from rewardlab.types import Samples, concatenate

BETA = 0.1
PAIRS = 3


def ipo_loss(reference):
    """Return IPO's loss (arXiv 2310.12036, equation 17) as a function of totals and rows.

    It is the mean over pairs of (margin - 1/(2β))²; the margin is the difference of the halves'
    log-ratios to the reference. Chosen rows come first, then rejected ones.
    """

    def loss(totals, rows):
        chosen, rejected = (totals - reference[rows]).chunk(2)
        return (chosen - rejected - 1 / (2 * BETA)).square().sum() / PAIRS

    return loss


def language_policy():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6)
    prompts = ["a cat", "z", "the dogs barked at"]
    chosen = Samples(prompts, ["sat.", "", "ran away, very far"])
    rejected = Samples(prompts, ["is", "zz", "x"])
    return policy, chosen, rejected


def diffusion_policy():
    policy = DiffusionPolicy(tiny_diffusion(classes=0), draws=2)
    images = torch.rand(2, PAIRS, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = [""] * PAIRS
    return policy, Samples(prompts, images[0]), Samples(prompts, images[1])


@pytest.fixture
def small_chunks(monkeypatch):
    """Let a chunk of `linear_loss` hold few rows of the vocabulary; return the chunks' sizes."""
    sizes = []
    chunks = policy_loss.chunks

    def counted(*arguments):
        parts = chunks(*arguments)
        sizes.extend(len(part) for part in parts)
        return parts

    monkeypatch.setattr(policy_loss, "BUDGET", 24 * 259 * 4)
    monkeypatch.setattr(policy_loss, "chunks", counted)
    return sizes


@pytest.mark.parametrize("make", [language_policy, diffusion_policy])
def test_ipo_as_a_row_loss_is_the_naive_ipo(make, small_chunks):
    policy, chosen, rejected = make()
    seeds = row_seeds(0, PAIRS).repeat(2)
    both = policy.encode(concatenate([chosen, rejected]), seeds=seeds)
    reference = torch.linspace(-2, 2, 2 * PAIRS)
    pair = torch.arange(PAIRS).repeat(2)
    totals = step_total(policy.log_prob(both), both.mask)
    margin = (totals - reference)[:PAIRS] - (totals - reference)[PAIRS:]
    naive = ((margin - 1 / (2 * BETA)) ** 2).mean()
    applied, applied_totals = policy.apply_row_loss(both, ipo_loss(reference), groups=pair)
    assert_close(applied, naive, rtol=1e-5, atol=1e-6)
    assert_close(applied_totals, totals.detach(), rtol=1e-5, atol=1e-5)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    ours = torch.autograd.grad(applied, trained)
    theirs = torch.autograd.grad(naive, trained)
    assert any(gradient.abs().max() > 1e-3 for gradient in theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert_close(own, other, rtol=1e-3, atol=1e-5 * max(1.0, other.abs().max().item()))
    if make is language_policy:
        assert len(small_chunks) > 1, "the steps of all pairs were one chunk"
