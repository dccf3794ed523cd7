"""Relative by quantiles: the deviation's scale for Gaussians, the references' own for others."""

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.rewards import Function, Length, Relative, load_reward
from rewardlab.rewards.normal_scores import normal_scores, residual_knots
from rewardlab.rounds import Mining
from rewardlab.types import Samples


def reward(skew):
    """Numbers in texts, bent so that large ones lie in a long tail."""

    def scores(samples):
        values = torch.tensor([float(text) for text in samples.outputs])
        return (skew * values).exp() if skew else values

    return Function(scores)


def drawn(prompts, count, seed):
    values = torch.randn(prompts * count, generator=torch.Generator().manual_seed(seed))
    names = [f"p{row // count}" for row in range(prompts * count)]
    return Samples(names, [f"{value:.6f}" for value in values.tolist()])


def shares(relative, samples, limit=1.96):
    """The shares of samples below and above the limits."""
    scores = relative(samples)
    return (scores < -limit).float().mean().item(), (scores > limit).float().mean().item()


def test_of_gaussians_both_scales_are_one():
    references, fresh = drawn(1, 4000, 0), drawn(1, 500, 1)
    found = [Relative(reward(0), references, scale=s)(fresh) for s in ("deviation", "quantile")]
    assert torch.allclose(*found, atol=0.25)
    assert (found[0] - found[1]).abs().mean() < 0.05


def test_of_a_long_tail_the_quantile_flags_the_share_that_z_promises():
    """2.5 % of fresh samples on each side, where deviations flag none below and more above."""
    references, fresh = drawn(1, 4000, 0), drawn(1, 4000, 1)
    by_deviation = shares(Relative(reward(0.5), references), fresh)
    by_quantile = shares(Relative(reward(0.5), references, scale="quantile"), fresh)
    assert by_deviation[0] == 0
    assert by_deviation[1] > 0.03
    assert by_quantile == pytest.approx((0.025, 0.025), abs=0.008)


def test_a_few_references_of_many_prompts_are_pooled():
    """Each lies nearer to a mean that it is part of; the widening undoes that."""
    references = drawn(2000, 2, 0)
    values = torch.tensor([[float(text)] for text in references.outputs])
    assert residual_knots(references.prompts, values).std().item() == pytest.approx(1, abs=0.05)


def test_scores_rise_everywhere_and_have_a_gradient():
    knots = torch.tensor([-1.0] * 50 + [0.5] * 51)[:, None]  # ties
    values = torch.linspace(-5, 5, 201)[:, None].requires_grad_()
    scores = normal_scores(values, knots, torch.tensor([2.0]))
    assert (scores.diff(dim=0) > -1e-6).all()
    assert scores[-1].item() == pytest.approx(scores[-2].item() + 0.05 / 2, abs=1e-5)
    slope = torch.autograd.grad(scores.sum(), values)[0]
    assert slope.isfinite().all()
    assert slope[0].item() == pytest.approx(0.5)
    at_ties = normal_scores(torch.tensor([[-1.0], [0.5]]), knots, torch.ones(1))
    middle = torch.special.ndtri((torch.arange(101) + 0.5) / 101)
    expected = [(middle[0] + middle[49]) / 2, (middle[50] + middle[100]) / 2]
    assert at_ties.flatten().tolist() == pytest.approx([x.item() for x in expected], abs=1e-5)


def test_constants_keep_their_scale(tmp_path):
    references = drawn(5, 20, 0)
    prompts = references.prompts
    words = Samples(prompts, ["w " * (row % 7) + "w" for row in range(len(prompts))])
    relative = Relative(Length(), words, scale="quantile")
    relative.save_pretrained(tmp_path / "reward")
    relative.save_constants(tmp_path / "constants.json")
    for again in (
        load_reward(tmp_path / "reward"),
        Relative(Length(), tmp_path / "constants.json"),
    ):
        assert torch.equal(again(words), relative(words))
    plain = Relative(Length(), words)
    assert not torch.allclose(plain(words), relative(words), atol=0.05)
    plain.save_constants(tmp_path / "plain.json")
    with pytest.raises(InputError, match="means and deviations alone"):
        Relative(Length(), tmp_path / "plain.json", scale="quantile")
    with pytest.raises(InputError, match="got 'rank'"):
        Relative(Length(), words, scale="rank")
    for wrong in (0.0, 1.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            Mining(quantile=wrong)
