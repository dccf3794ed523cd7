"""PGDAttacker climbs more than noise does, stays in its ball, and changes pixels alone."""

import pytest
import torch
from torch.testing import assert_close

from rewardlab.attackers.pgd import PGDAttacker, image_gradient
from rewardlab.errors import InputError
from rewardlab.policies import DiffusionPolicy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Attack, Ensemble, Function, VisionReward
from rewardlab.rewards.rules import Length
from rewardlab.seeds import generators, normal, row_seeds, uniform
from rewardlab.testing import tiny_diffusion, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

TOWER = tiny_tower()


def vision(**options):
    reward = VisionReward(TOWER, heads=2, width=16, **options)
    with torch.no_grad():
        reward.fit_feature_scale(reward.features(images(16, seed=9)))
    return reward


def images(count=6, seed=0, shape=(3, 16, 16)):
    prompts = [["a cat", "a dog"][i % 2] for i in range(count)]
    return Samples(prompts, 0.1 + 0.8 * uniform(shape, generators(row_seeds(seed, count))))


def noisy(samples, norm, epsilon):
    """Random changes of the largest size that the ball allows."""
    change = normal(samples.outputs.shape[1:], generators(row_seeds(5, len(samples))))
    lengths = change.flatten(1).norm(dim=1)[:, None, None, None]
    change = change.sign() if norm == "linf" else change / lengths
    return Samples(samples.prompts, (samples.outputs + epsilon * change).clamp(0, 1))


def size(change, norm):
    return change.flatten(1).abs().amax(1) if norm == "linf" else change.flatten(1).norm(dim=1)


@pytest.mark.parametrize("options", [{}, {"conditional": True}, {"unlocked_groups": 1}], ids=str)
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 0.7)])
def test_every_image_gains_more_than_by_noise_of_the_same_size(norm, epsilon, options):
    reward = vision(**options)
    samples = images()
    before = fingerprint(samples.outputs)
    weights = fingerprint(reward.state_dict())
    moved = PGDAttacker(epsilon=epsilon, norm=norm, steps=8).climb(reward.train(), samples, seed=3)
    assert reward.training
    with torch.no_grad():
        start = reward.eval()(samples)
        gain = reward(moved) - start
        by_noise = reward(noisy(samples, norm, epsilon)) - start
    assert (gain > 3 * by_noise.clamp_min(0)).all()
    assert (gain > 0).all()
    assert (size(moved.outputs - samples.outputs, norm) <= epsilon * (1 + 1e-5)).all()
    assert ((moved.outputs >= 0) & (moved.outputs <= 1)).all()
    assert moved.outputs.dtype == torch.float32
    assert fingerprint(samples.outputs) == before
    assert fingerprint(reward.state_dict()) == weights
    assert all(parameter.grad is None for parameter in reward.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_reward_is_climbed_to_the_balls_best_point(norm):
    samples = images(3)
    slope = normal((3, 16, 16), generators(row_seeds(7, 1)))[0]
    reward = Function(lambda given: (given.outputs * slope).flatten(1).sum(1))
    moved = PGDAttacker(epsilon=0.05, norm=norm, steps=10).climb(reward, samples, seed=0)
    best = 0.05 * (slope.sign() if norm == "linf" else slope / slope.norm())
    expected = samples.outputs + best.expand(3, -1, -1, -1)
    assert_close(moved.outputs, expected, atol=1e-5 if norm == "linf" else 2e-3, rtol=0)


def test_no_score_falls_and_no_start_leaves_the_ball():
    samples = images(5)
    peak = images(5).outputs  # where the samples are already

    def closeness(given):
        return -(given.outputs - peak[: len(given)]).square().flatten(1).sum(1)

    moved = PGDAttacker(steps=3).climb(Function(closeness), samples, seed=0)
    assert torch.equal(moved.outputs, samples.outputs)
    for norm in ("linf", "l2"):
        attacker = PGDAttacker(norm=norm, epsilon=0.5)
        start = samples.outputs
        noise = attacker._noise(start, row_seeds(0, 5))
        assert (size(noise, norm) <= 0.5 + 1e-6).all()
        assert (size(noise, norm) > 0.2).all()
        projected = attacker._project(start + noise, start)
        assert_close(projected.clamp(0, 1), projected)


def test_a_row_does_not_depend_on_its_batch_and_seeds_are_the_runs():
    reward = vision()
    samples = images()
    whole = PGDAttacker(steps=2, batch_size=6).climb(reward, samples, seed=1).outputs
    parts = PGDAttacker(steps=2, batch_size=4).climb(reward, samples, seed=1).outputs
    assert_close(parts, whole, atol=1e-6, rtol=0)
    assert torch.equal(PGDAttacker(steps=2).climb(reward, samples, seed=1).outputs, whole)
    assert not torch.equal(PGDAttacker(steps=2).climb(reward, samples, seed=2).outputs, whole)
    still = PGDAttacker(steps=2, random_start=False)
    assert torch.equal(
        still.climb(reward, samples, seed=1).outputs, still.climb(reward, samples, seed=2).outputs
    )


def test_it_is_an_attacker_like_the_others():
    policy = DiffusionPolicy(
        tiny_diffusion(classes=0, channels=3, size=16), sampler=Sampler(steps=2)
    )
    reward = Attack(vision(), vision(seed=1), threshold=-100.0, weight=0.5)
    found = PGDAttacker(n=3, keep=2, steps=3)(policy, reward, ["", ""], 0)
    assert len(found) == 4
    assert set(found.facts) >= {"attack", "target", "witness", "group"}
    with torch.no_grad():
        assert_close(found.facts["attack"], reward(found))
    attack = found.facts["attack"].view(2, 2)
    assert (attack[:, 0] >= attack[:, 1]).all()
    with torch.inference_mode():
        again = PGDAttacker(n=3, keep=2, steps=3)(policy, reward, ["", ""], 0)
    assert_close(again.outputs, found.outputs, atol=1e-6, rtol=0)


def test_videos_of_several_rewards_are_climbed():
    samples = Samples([""] * 2, uniform((2, 3, 16, 16), generators(row_seeds(0, 2))))
    reward = Ensemble([vision(), vision(seed=1)])
    moved = PGDAttacker(steps=4).climb(reward, samples, seed=0)
    assert moved.outputs.shape == samples.outputs.shape
    assert (reward(moved) > reward(samples)).all()


def test_images_of_another_size_are_climbed_through_the_resize():
    reward, samples = vision(), images(2, shape=(1, 40, 25))
    assert (reward(PGDAttacker(steps=4).climb(reward, samples, seed=0)) > reward(samples)).all()


def test_a_gradient_that_is_not_finite_counts_as_none():
    samples = Samples([""], torch.zeros(1, 1, 2, 2))
    scores, gradient = image_gradient(
        Function(lambda given: given.outputs.flatten(1).norm(dim=1).sqrt()),
        samples,
        samples.outputs,
    )
    assert scores.item() == 0
    assert gradient.isfinite().all()


def test_texts_are_refused():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
    with pytest.raises(InputError, match="moves the pixels of images; got a list of 1 strings"):
        PGDAttacker()(policy, Length(), ["hi"], 0)


WEIGHT = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda given: given.outputs.detach().flatten(1).mean(1),
        lambda given: torch.zeros(len(given)),
        lambda given: given.outputs.detach().flatten(1).mean(1) * WEIGHT,
    ],
)
def test_rewards_without_a_gradient_to_the_images_are_refused(function):
    with pytest.raises(InputError, match="Function have no gradient to the images"):
        PGDAttacker().climb(Function(function), images(2), seed=0)


def test_settings_out_of_range_are_refused():
    for wrong in (
        {"epsilon": 0},
        {"steps": 0},
        {"step_size": -1.0},
        {"norm": "l1"},
        {"n": 2, "keep": 3},
        {"batch_size": 0},
    ):
        with pytest.raises(InputError, match="PGDAttacker"):
            PGDAttacker(**wrong)
