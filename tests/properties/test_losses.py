"""Losses against their textbook forms in float64, values and gradients, and their symmetries."""

import math

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rewardlab.losses import bradley_terry_loss, discrimination_loss, dpo_loss, dpo_margin, nll_loss
from rewardlab.losses.kl import absolute, adapted_weight, k1, k2, k3
from rewardlab.losses.policy_gradient import (
    log_ratio,
    ppo_loss,
    step_weights,
    surrogate,
    value_loss,
)

SCORES = st.integers(-1920, 1920).map(lambda number: number / 64)
CHANCES = st.floats(0, 1, width=32)
BETAS = st.floats(2**-10, 8, width=32)
NORMALIZATIONS = st.sampled_from(["token", "sequence", "constant"])


def columns(*elements, least=1, most=6):
    """Several tensors [B] of one length, in float64 with exact float32 values."""
    rows = st.lists(st.tuples(*elements), min_size=least, max_size=most)
    return rows.map(lambda values: torch.tensor(values, dtype=torch.float64).unbind(1))


@st.composite
def steps(draw, *elements):
    """Several tensors [B, T] in float64, and a mask with at least one step."""
    rows = draw(st.integers(1, 4))
    width = draw(st.integers(1, 5))
    tables = []
    for element in elements:
        values = draw(st.lists(element, min_size=rows * width, max_size=rows * width))
        tables.append(torch.tensor(values, dtype=torch.float64).view(rows, width))
    bits = draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
    mask = torch.tensor(bits).view(rows, width)
    assume(bool(mask.any()))
    return *tables, mask


def close(one, other, rtol=2e-4, atol=2e-5):
    torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=atol)


def softplus(x):
    """log(1 + e^x) in float64."""
    return torch.logaddexp(x, torch.zeros_like(x))


def gradients(loss, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(loss(*leaves), leaves)


@given(columns(SCORES, SCORES, SCORES, SCORES), BETAS)
def test_dpo_is_its_textbook_form_with_its_gradient(tables, beta):
    def textbook(c, r, rc, rr):
        return softplus(-beta * ((c - rc) - (r - rr))).sum()

    def ours(*tensors):
        return dpo_loss(*tensors, beta=beta).double().sum()

    close(ours(*tables), textbook(*tables), atol=1e-3)
    for one, other in zip(gradients(ours, *tables), gradients(textbook, *tables), strict=True):
        close(one, other, rtol=1e-3, atol=1e-4)


@given(columns(SCORES, SCORES, SCORES, SCORES), BETAS, st.integers(-64, 64))
def test_dpo_sees_ratios_only_and_turns_with_its_pair(tables, beta, shift):
    c, r, rc, rr = tables
    loss = dpo_loss(c, r, rc, rr, beta=beta)
    close(dpo_loss(c + shift, r, rc + shift, rr, beta=beta), loss, atol=1e-3)
    close(dpo_loss(c + shift, r + shift, rc, rr, beta=beta), loss, atol=1e-3)
    margin = dpo_margin(c, r, rc, rr)
    close(loss - dpo_loss(r, c, rr, rc, beta=beta), -beta * margin, atol=1e-3)
    close(dpo_loss(c, r, c, r, beta=beta), torch.full_like(loss, math.log(2)))


@given(columns(SCORES, SCORES, CHANCES, SCORES, st.floats(0, 4, width=32)))
def test_bradley_terry_is_its_textbook_form_with_its_gradient(tables):
    chosen, rejected, labels, margin, weights = tables
    assume(weights.sum() > 0.1)

    def textbook(c, r):
        lead = c - r - margin
        losses = labels * softplus(-lead) + (1 - labels) * softplus(lead)
        return (losses * weights).sum() / weights.sum()

    def ours(c, r):
        return bradley_terry_loss(c, r, labels, margin, weights).double()

    close(ours(chosen, rejected), textbook(chosen, rejected), atol=1e-3)
    found = gradients(ours, chosen, rejected)
    for one, other in zip(found, gradients(textbook, chosen, rejected), strict=True):
        close(one, other, rtol=1e-3)


@given(columns(SCORES, SCORES, CHANCES), st.integers(-64, 64))
def test_bradley_terry_sees_differences_only_and_turns_with_its_label(tables, shift):
    chosen, rejected, labels = tables
    loss = bradley_terry_loss(chosen, rejected, labels)
    close(bradley_terry_loss(chosen + shift, rejected + shift, labels), loss, atol=1e-3)
    close(bradley_terry_loss(rejected, chosen, 1 - labels), loss, atol=1e-3)


@given(columns(SCORES, SCORES, CHANCES, least=2))
def test_a_pair_of_no_weight_is_as_one_left_out(tables):
    chosen, rejected, labels = tables
    weights = torch.ones(len(chosen))
    weights[0] = 0
    whole = bradley_terry_loss(chosen, rejected, labels, weights=weights)
    close(whole, bradley_terry_loss(chosen[1:], rejected[1:], labels[1:]))


@given(columns(SCORES, SCORES), CHANCES)
def test_members_are_averaged(tables, label):
    chosen, rejected = (table.float() for table in tables)
    labels = torch.full((len(chosen),), label)
    joint = bradley_terry_loss(
        torch.stack([chosen, rejected], 1), torch.stack([rejected, chosen], 1), labels
    )
    one = bradley_terry_loss(chosen, rejected, labels)
    close(joint, (one + bradley_terry_loss(rejected, chosen, labels)) / 2)


@given(columns(SCORES, CHANCES), st.sampled_from([0.0, 0.1, 0.5]))
def test_discrimination_is_cross_entropy_with_its_gradient(tables, smoothing):
    logits, labels = tables

    def textbook(values):
        target = labels * (1 - smoothing) + smoothing / 2
        return (target * softplus(-values) + (1 - target) * softplus(values)).mean()

    def ours(values):
        return discrimination_loss(values[:, None], labels, label_smoothing=smoothing).double()

    close(ours(logits), textbook(logits))
    close(*gradients(ours, logits), *gradients(textbook, logits))
    close(
        ours(-logits), discrimination_loss(logits[:, None], 1 - labels, label_smoothing=smoothing)
    )


@given(steps(st.floats(-4, 4, width=32), st.floats(-4, 4, width=32), SCORES), NORMALIZATIONS)
def test_ppo_is_its_textbook_form_with_its_gradient(case, normalization):
    new, old, advantages, mask = case
    clip = 0.2
    # the two sides of a kink have different gradients, and float32 may choose the other
    ratios = (new - old).exp()
    assume(not ((ratios - 1).abs() - clip).abs().lt(1e-3).any())
    counts = {
        "token": mask.sum().expand_as(mask),
        "sequence": mask.sum(1, keepdim=True).clamp_min(1) * len(mask),
        "constant": torch.tensor(mask.numel()),
    }

    def textbook(values):
        ratio = (values - old).exp()
        held = ratio.clamp(1 - clip, 1 + clip)
        each = torch.minimum(ratio * advantages, held * advantages)
        return -(each * mask / counts[normalization]).sum()

    def ours(values):
        loss, _ = ppo_loss(values, old, advantages, mask, clip=clip, normalization=normalization)
        return loss.double()

    close(ours(new), textbook(new), rtol=1e-3, atol=2e-2)
    close(*gradients(ours, new), *gradients(textbook, new), rtol=1e-3, atol=2e-2)


@given(steps(st.floats(-4, 4, width=32), SCORES))
def test_ppo_at_the_old_policy_is_reinforce(case):
    log_prob, advantages, mask = case

    def ours(values):
        losses, _ = surrogate(values, log_prob, advantages, mask, clip=0.2)
        return losses.double().sum()

    close(*gradients(ours, log_prob), -advantages * mask)


@given(steps(st.floats(-8, 8, width=32), SCORES), st.integers(-32, 32))
def test_ppo_sees_ratios_only_and_a_step_past_the_clip_has_no_gradient(case, shift):
    new, advantages, mask = case
    old = new - 1  # the ratio is e, beyond 1.2
    losses, clipped = surrogate(new + shift, old + shift, advantages, mask, clip=0.2)
    expected = -torch.minimum(math.e * advantages, 1.2 * advantages) * mask
    close(losses, expected, rtol=1e-3, atol=1e-3)

    def ours(values):
        return surrogate(values, old, advantages, mask, clip=0.2)[0].double().sum()

    (gradient,) = gradients(ours, new)
    assert (gradient[clipped] == 0).all()
    assert clipped.equal(mask & (advantages > 0))


@given(steps(SCORES), NORMALIZATIONS, st.integers(0, 4))
def test_weights_of_steps_can_be_cut_anywhere(case, normalization, place):
    values, mask = case
    weights = step_weights(mask, normalization)
    assert (weights[~mask] == 0).all()
    parts = (weights * values)[:place].sum() + (weights * values)[place:].sum()
    close(parts, (weights * values).sum())
    if normalization == "token":
        close(weights.sum(), torch.tensor(1.0))
    if normalization == "sequence":
        close(weights.sum(1), mask.any(1) / len(mask))


@given(steps(SCORES, SCORES, SCORES), st.floats(0.125, 4, width=32))
def test_the_critics_loss_is_its_textbook_form(case, clip):
    values, old, returns, mask = case
    held = old + (values - old).clamp(-clip, clip)
    errors = torch.maximum((values - returns) ** 2, (held - returns) ** 2) / 2
    close(value_loss(values, old, returns, mask, clip=clip), errors[mask].mean(), rtol=1e-3)


@given(steps(SCORES))
def test_what_is_masked_changes_nothing(case):
    values, mask = case
    spoilt = values.masked_fill(~mask, float("nan"))
    close(nll_loss(spoilt, mask), -values[mask].mean())
    assert log_ratio(spoilt, torch.zeros_like(values), mask).isfinite().all()


@given(steps(st.floats(-6, 6, width=32)))
def test_estimates_of_the_divergence(case):
    ratios, _ = case
    ratios = ratios.requires_grad_()
    assert (k2(ratios) >= 0).all()
    assert (k3(ratios) >= -1e-9).all()
    close(k1(ratios).abs(), absolute(ratios))
    (gradient,) = torch.autograd.grad(k3(ratios).sum(), ratios)
    close(gradient, 1 - (-ratios).exp())
    (gradient,) = torch.autograd.grad(k2(ratios).sum(), ratios)
    close(gradient, ratios)


@given(st.floats(1e-6, 10), st.floats(0, 100), st.floats(0.01, 50))
def test_a_weight_follows_the_divergence_by_a_little(weight, kl, target):
    adapted = adapted_weight(weight, kl, target)
    assert 0.98 * weight * (1 - 1e-9) <= adapted <= 1.02 * weight * (1 + 1e-9)
    assert (adapted >= weight) == (kl >= target) or math.isclose(kl, target, rel_tol=1e-9)
