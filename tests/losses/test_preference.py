"""χPO's loss against its own derivative, its limits, and what the DPO loop makes of it."""

import pytest
import torch

from rewardlab import CausalLMPolicy, DiffusionPolicy
from rewardlab.errors import InputError
from rewardlab.losses import chi_po_loss, dpo_loss, mixed_chi2_link
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import DPO
from rewardlab.types import PreferencePairs, Samples


def columns(count=50, width=1.0):
    draw = torch.Generator().manual_seed(0)
    return width * torch.randn(4, count, generator=draw, dtype=torch.float64)


def gradient(loss, policy):
    return torch.autograd.grad(loss.sum(), policy)[0]


@pytest.mark.parametrize("width", [0.1, 1.0, 6.0])
def test_the_gradient_is_the_derivative_by_hand(width):
    """d/d log π of -log σ(m) is -β·σ(-m)·(1 + z), by autograd and by hand, in float64; beyond the
    clip it is 0.
    """
    chosen, rejected, *reference = columns(width=width)
    policy = torch.stack([chosen, rejected]).requires_grad_()
    found = gradient(chi_po_loss(*policy, *reference, beta=0.3, reward_range=4.0), policy)
    log_ratios = policy.detach() - torch.stack(reference)
    capped = log_ratios.clamp_max(10)
    links = capped.exp() + log_ratios
    margin = 0.3 * (links[0] - links[1])
    slope = 1 + torch.where(log_ratios < 10, log_ratios.exp(), 0)
    pull = -0.3 * torch.sigmoid(-margin) * (margin.abs() < 8)
    expected = torch.stack([pull, -pull]) * slope
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)
    if width == 6:
        assert (found == 0).any()  # some are clipped


def test_near_the_reference_it_is_dpo_at_twice_beta():
    chosen, rejected = columns(width=1e-4)[:2]
    policy = torch.stack([chosen, rejected]).requires_grad_()
    close = [column + 1e-4 for column in policy.detach()]
    found = gradient(chi_po_loss(*policy, *close, beta=1e-3), policy)
    expected = gradient(dpo_loss(*policy, *close, beta=2e-3), policy)
    assert torch.allclose(found, expected, rtol=1e-3)
    far = gradient(chi_po_loss(*policy, *[column - 3 for column in close], beta=1e-3), policy)
    assert not torch.allclose(far, expected, rtol=0.5)


def test_large_ratios_stay_finite_and_their_link_rises():
    link = mixed_chi2_link(torch.tensor([9.0, 11.0, 900.0]), torch.zeros(3))
    assert link.isfinite().all()
    assert link.tolist() == sorted(link.tolist())


def test_the_loop_takes_the_link():
    """The whole loss of a batch is that of its log-probabilities, and DPO's is another."""
    pairs = PreferencePairs(
        Samples(["is it", "say"], ["yes", "a"]), Samples(["is it", "say"], ["no", "b"])
    )
    losses = {}
    for link in ("kl", "mixed-chi2"):
        policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
        module = DPO(policy, beta=0.3, link=link)
        module.reference = CausalLMPolicy(tiny_causal_lm(seed=1), tiny_tokenizer()).reference()
        module.log_dict = lambda figures, **_: None
        losses[link] = module.training_step(pairs, 0).item()
        totals = []
        for part in (module.policy, module.reference):
            encoded = part.encode(pairs.chosen, seeds=torch.zeros(2, dtype=torch.long))
            other = part.encode(pairs.rejected, seeds=torch.zeros(2, dtype=torch.long))
            for rows in (encoded, other):
                totals.append(part.log_prob(rows).where(rows.mask, 0).sum(1))
        chosen, rejected, *reference = totals
        loss = {"kl": dpo_loss, "mixed-chi2": chi_po_loss}[link]
        expected = loss(chosen, rejected, *reference, beta=0.3).mean()
        assert losses[link] == pytest.approx(expected.item(), rel=1e-4)
    assert losses["kl"] != losses["mixed-chi2"]


def test_bad_input_is_refused():
    text = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(InputError, match="no ratio of images"):
        DPO(DiffusionPolicy(tiny_diffusion(classes=0)), link="mixed-chi2")
    with pytest.raises(InputError, match='"kl" or "mixed-chi2"; got \'chi\''):
        DPO(text, link="chi")
    with pytest.raises(InputError, match="above 0; got -1"):
        DPO(text, link="mixed-chi2", reward_range=-1)
