"""PPO on several rewards that are normalized apart."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rewardlab.advantages import decoupled
from rewardlab.errors import InputError
from rewardlab.rewards import Function, Weighted
from rewardlab.training.ppo import PPO
from rewardlab.training.shaping import Shaping

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
VALUE = LETTERS.VALUE
worth = LETTERS.worth
ROWS = torch.arange(8)


def short(samples):
    return (samples.facts["length"] < 3).float()


def experience(scale=1.0, weights=(1.0, 2.0), **options):
    wide = Function(lambda samples: scale * worth(samples))
    reward = Weighted([wide, Function(short)], list(weights))
    module = PPO(Letters(steps=3), reward, "decoupled", **options)
    return module, module.collect([""] * 8, ROWS)


def test_advantages_are_those_of_the_components_and_scores_the_weighted_sum():
    _, found = experience(kl_weight=0.0)
    components = torch.stack([worth(found.samples), short(found.samples)], 1)
    assert_close(found.rollout.scores, components @ torch.tensor([1.0, 2.0]))
    expected = decoupled(components.view(8, 4, 2), torch.tensor([1.0, 2.0]))
    assert_close(found.rollout.advantages, expected.view(-1, 1), atol=1e-5, rtol=1e-5)


def test_a_wide_reward_counts_by_its_weight_alone():
    advantages = [experience(scale, kl_weight=0.0)[1].rollout.advantages for scale in (1.0, 1e3)]
    assert_close(advantages[0], advantages[1], atol=1e-4, rtol=1e-4)
    normal = []
    for scale in (1.0, 1e3):
        wide = Function(lambda samples, scale=scale: scale * worth(samples))
        reward = Weighted([wide, Function(short)], [1.0, 2.0])
        module = PPO(Letters(steps=3), reward, "group_normalized", kl_weight=0.0)
        normal.append(module.collect([""] * 8, ROWS).rollout.advantages)
    assert (normal[0] - normal[1]).abs().max() > 0.3


def test_the_kl_is_taken_off_the_normalized_rewards():
    reference = Letters(steps=3, seed=1)
    _, plain = experience(kl_weight=0.0, reference=reference)
    _, held = experience(kl_weight=0.5, reference=reference)
    rollout = held.rollout
    ratios = (rollout.log_prob - rollout.reference_log_prob).where(rollout.trajectory.mask, 0)
    nats = ratios.sum(1).view(8, 4)
    expected = plain.rollout.advantages - 0.5 * (nats - nats.mean(1, keepdim=True)).view(-1, 1)
    assert_close(rollout.advantages, expected, atol=1e-5, rtol=1e-5)


def test_one_reward_and_a_shaping_of_the_sum_are_refused():
    with pytest.raises(InputError, match=r"needs a rewards\.Weighted of them; Function is one"):
        PPO(Letters(), VALUE, "decoupled")
    with pytest.raises(InputError, match="a shaping of the sum would have no effect"):
        experience(shaping=Shaping(whiten=True))
