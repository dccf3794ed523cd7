"""Advantages against their definitions, and against the gradients that they have to leave unbiased."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from rewardlab.advantages import (
    centered,
    decoupled,
    decoupled_sum,
    generalized,
    group_normalized,
    leave_one_out,
)
from rewardlab.errors import InputError


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("advantage", [leave_one_out, group_normalized, centered])
def test_they_sum_to_zero_in_each_prompt_whatever_is_added_to_it(advantage):
    scores = drawn(5, 4)
    found = advantage(scores)
    assert found.shape == scores.shape
    assert found.dtype == torch.float32
    assert_close(found.sum(1), torch.zeros(5), atol=1e-5, rtol=0)
    assert_close(advantage(scores + 100 * drawn(5, 1, seed=1)), found, atol=1e-4, rtol=1e-4)


def test_leave_one_out_takes_the_others_mean():
    scores = drawn(3, 4)
    others = torch.stack([scores[:, [j for j in range(4) if j != k]].mean(1) for k in range(4)], 1)
    assert_close(leave_one_out(scores), scores - others)


def test_group_normalized_does_not_see_the_scale_and_gives_ties_nothing():
    scores = drawn(3, 4)
    assert_close(group_normalized(1000 * scores), group_normalized(scores))
    assert group_normalized(torch.full((2, 3), 0.1)).abs().max() == 0
    assert (
        group_normalized(torch.full((2, 3), 0.1) + torch.tensor([0.0, 0.0, 1e-8])).abs().max() == 0
    )


@pytest.mark.parametrize(
    ("advantage", "unbiased"),
    [(leave_one_out, True), (lambda s: s - s.mean(1, keepdim=True), False)],
)
def test_the_expected_gradient_is_that_of_the_expected_score(advantage, unbiased):
    """E[1/K · Σ_k A_k·∇log π(y_k)] over all 3³ triples of outcomes; a baseline that holds the
    sample itself shrinks it.
    """
    logits, scores = (
        drawn(3).double().requires_grad_(),
        torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
    )
    log_prob = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((log_prob.exp() * scores).sum(), logits, retain_graph=True)
    triples = torch.tensor(list(product(range(3), repeat=3)))
    chance = log_prob[triples].sum(1).exp().detach()
    (found,) = torch.autograd.grad(
        (chance * (advantage(scores[triples]) * log_prob[triples]).mean(1)).sum(), logits
    )
    assert torch.allclose(found, exact, atol=1e-6) == unbiased
    assert_close(found, exact * (1 if unbiased else 2 / 3), atol=1e-6, rtol=0)


def gae(rewards, values, discount, lam):
    """The definition, as a double loop in float64 over the steps that count."""
    rewards, values = rewards.double().tolist(), [*values.double().tolist(), 0.0]
    delta = [r + discount * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    return [
        sum((discount * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))
    ]


MASKS = torch.tensor(
    [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 1, 1]], dtype=torch.bool
)


@pytest.mark.parametrize(("discount", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.97, 1.0)])
def test_generalized_is_the_double_loop_on_ragged_rows(discount, lam):
    rewards, values = (
        drawn(4, 5, seed=seed).where(MASKS, float("nan")) for seed in (0, 1)
    )  # what is masked is not read
    advantages, returns = generalized(rewards, values, MASKS, discount=discount, lam=lam)
    assert advantages.dtype == returns.dtype == torch.float32
    for row, mask in enumerate(MASKS):
        expected = gae(rewards[row, mask], values[row, mask], discount, lam)
        assert_close(advantages[row, mask], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert_close(returns[MASKS], (advantages + values)[MASKS])
    assert advantages[~MASKS].abs().max() == returns[~MASKS].abs().max() == 0


def test_generalized_at_the_limits_is_monte_carlo_and_one_step():
    rewards, values, mask = drawn(3, 6), drawn(3, 6, seed=1), torch.ones(3, 6, dtype=torch.bool)
    later = rewards.flip(1).cumsum(1).flip(1)
    advantages, returns = generalized(rewards, values, mask, discount=1.0, lam=1.0)
    assert_close(returns, later, atol=1e-5, rtol=1e-5)
    assert_close(advantages, later - values, atol=1e-5, rtol=1e-5)
    following = torch.cat([values[:, 1:], torch.zeros(3, 1)], 1)
    assert_close(
        generalized(rewards, values, mask, discount=0.9, lam=0.0)[0],
        rewards + 0.9 * following - values,
    )


def test_a_lone_sample_and_wrong_shapes_are_refused():
    for advantage in (leave_one_out, group_normalized):
        with pytest.raises(InputError, match=r"compares the K >= 2 samples .* got \[3, 1\]"):
            advantage(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"\[B, T\]"):
        generalized(
            torch.zeros(2, 3),
            torch.zeros(2, 1),
            torch.ones(2, 3, dtype=torch.bool),
            discount=1.0,
            lam=1.0,
        )


class TestDecoupled:
    """GDPO: each reward is normalized by itself."""

    WEIGHTS = torch.tensor([1.0, -0.5, 2.0])

    def test_it_is_the_whitened_sum_of_group_normalized_rewards(self):
        scores = drawn(6, 4, 3)
        total = sum(w * group_normalized(scores[..., r]) for r, w in enumerate(self.WEIGHTS))
        assert_close(decoupled_sum(scores, self.WEIGHTS), total)
        found = decoupled(scores, self.WEIGHTS)
        assert_close(found, (total - total.mean()) / total.std(correction=0))

    def test_rescaling_one_reward_changes_nothing(self):
        scores = drawn(6, 4, 3)
        moved = scores * torch.tensor([1000.0, 0.01, 1.0]) + torch.tensor([0.0, 7.0, -3.0])
        found = decoupled(scores, self.WEIGHTS)
        assert_close(decoupled(moved, self.WEIGHTS), found, atol=1e-4, rtol=1e-4)

    def test_a_reward_without_variance_adds_nothing_rather_than_nan(self):
        scores = drawn(2, 4, 2)
        scores[0, :, 1] = 0.3
        found = decoupled_sum(scores, torch.tensor([1.0, 5.0]))
        assert_close(found[0], group_normalized(scores[..., 0])[0])
        assert decoupled(torch.ones(2, 3, 2), torch.ones(2)).tolist() == [[0.0] * 3] * 2

    def test_what_is_not_scored_is_left_out(self):
        scores = drawn(1, 5, 2)
        scores[0, 2, 1] = float("nan")
        rest = [0, 1, 3, 4]
        alone = torch.zeros(1, 5)
        alone[:, rest] = group_normalized(scores[:, rest, 1])
        expected = group_normalized(scores[..., 0]) + alone
        assert_close(decoupled_sum(scores, torch.ones(2)), expected)
        scores[0, 1:, 1] = float("nan")  # one is left
        assert_close(decoupled_sum(scores, torch.ones(2)), group_normalized(scores[..., 0]))

    def test_shapes_that_do_not_fit_are_refused(self):
        for shape, weights in (((3, 1, 2), 2), ((3, 4, 2), 3), ((3, 4), 4)):
            with pytest.raises(InputError, match=r"scores \[P, K, R\] with weights \[R\]; got"):
                decoupled(torch.zeros(shape), torch.ones(weights))


NAN = float("nan")


def with_holes(rows, k, seed=0):
    """Scores [P, K] of which about a third is missing, with groups of none, one and all."""
    scores = drawn(rows, k, seed=seed)
    holes = torch.rand(rows, k, generator=torch.Generator().manual_seed(seed + 1)) < 0.35
    holes[0] = True
    holes[1] = torch.arange(k) > 0
    holes[2] = False
    return scores.masked_fill(holes, NAN)


@pytest.mark.parametrize("advantage", [leave_one_out, group_normalized, centered])
def test_what_is_not_scored_is_as_if_it_had_not_been_drawn(advantage):
    for seed in range(5):
        scores = with_holes(20, 5, seed)
        found = advantage(scores)
        assert (found[scores.isnan()] == 0).all()
        for row, values in enumerate(scores):
            present = values[~values.isnan()]
            if len(present) < 2:
                assert (found[row] == 0).all()
            else:
                assert_close(found[row][~values.isnan()], advantage(present[None])[0])


@pytest.mark.parametrize("advantage", [leave_one_out, group_normalized, centered])
def test_a_whole_group_is_equal_to_the_bit_beside_one_with_holes(advantage):
    scores = with_holes(20, 5)
    whole = ~scores.isnan().any(1)
    assert whole.sum() > 1
    assert torch.equal(advantage(scores)[whole], advantage(scores[whole]))


def test_missing_scores_count_as_in_trl():
    """The formulas of TRL 1.16's RLOO and GRPO trainers, whose baseline is over scorable siblings.

    GRPO adds 1e-4 to the deviation. A deviation of one score is NaN there, which becomes 0.
    """
    scores = with_holes(20, 4).double()
    counts = (~scores.isnan()).sum(1, keepdim=True)
    others = (scores.nansum(1, keepdim=True) - scores) / (counts - 1)
    rloo = (scores - others).nan_to_num(0, 0, 0).float()
    rloo[(counts < 2).flatten()] = 0
    assert_close(leave_one_out(scores), rloo)
    mean = scores.nanmean(1, keepdim=True)
    variance = (scores - mean).square().nanmean(1, keepdim=True) * counts / (counts - 1)
    grpo = ((scores - mean) / variance.sqrt()).nan_to_num(0, 0, 0).float()
    assert_close(group_normalized(scores), grpo)


def test_a_sample_that_no_reward_scored_counts_in_no_whitening():
    scores = torch.stack([with_holes(6, 4, 3), with_holes(6, 4, 3)], 2)
    scores[2, 0] = NAN
    found = decoupled(scores, torch.tensor([1.0, 2.0]))
    missing = scores.isnan().all(2)
    assert (found[missing] == 0).all()
    present = found[~missing]
    assert_close(present.mean(), torch.zeros(()), atol=1e-6, rtol=0)
    assert_close(present.std(correction=0), torch.ones(()))
