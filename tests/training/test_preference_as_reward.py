"""PAR: bounded by 1, steepest at the reference, blind to what a reward adds to a prompt."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards.functions import Function
from rewardlab.training.ppo import PPO
from rewardlab.training.shaping import Shaping, preference_as_reward
from rewardlab.types import Samples

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
VALUE = LETTERS.VALUE
worth = LETTERS.worth


def test_what_a_reward_adds_to_a_prompt_changes_nothing_in_pooled_references_it_does():
    def moved(samples):
        return worth(samples) + 7.0 * samples.facts["row"]

    changes = {}
    for references in ("prompt", "pooled"):
        advantages = []
        for reward in (VALUE, Function(moved)):
            shaping = Shaping(par=1.0, references=references)
            module = PPO(Letters(steps=3), reward, shaping=shaping, kl_weight=0.0)
            module.collect([""] * 4, torch.arange(4))  # the figures are of these
            experience = module.collect([""] * 8, torch.arange(8))
            advantages.append(experience.rollout.advantages)
        changes[references] = (advantages[1] - advantages[0]).abs().max().item()
    assert changes["prompt"] < 1e-5 < 0.05 < changes["pooled"]


def test_rewards_are_the_mean_of_sigmoids_over_the_prompt_s_own_references():
    module = PPO(Letters(steps=3), VALUE, shaping=Shaping(par=0.5), kl_weight=0.0)
    first = module.collect([""] * 3, torch.arange(3))
    later = module.collect([""] * 2, torch.tensor([7, 1]))
    figures = module.reference_figures
    assert sorted(figures.scores) == [0, 1, 2, 7]
    assert module.generations == 4 * (3 + 3 + 2 + 1)  # prompt 1 was met before
    for experience, rows in ((first, [0, 1, 2]), (later, [7, 1])):
        for group, row in zip(experience.rollout.scores.view(-1, 4), rows, strict=True):
            own = torch.tensor(figures.scores[row])
            wanted = [
                (1 / (1 + torch.exp((own - score) / (0.5 * figures.deviation)))).mean()
                for score in group
            ]
            samples = Samples([""] * 4, [""] * 4, {"row": torch.full((4,), row)})
            assert_close(module.shaping(group, samples, figures), torch.stack(wanted))


def test_it_is_bounded_and_its_slope_at_the_reference_is_a_quarter_over_tau():
    score = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    bounded = preference_as_reward(score, torch.tensor([[3.0]]).double(), 0.7)
    [slope] = torch.autograd.grad(bounded, score)
    assert_close(slope, torch.tensor([0.25 / 0.7], dtype=torch.float64))
    far = preference_as_reward(torch.tensor([-1e6, 1e6]), torch.zeros(1, 5), 0.7)
    assert far.tolist() == [0.0, 1.0]


def test_a_temperature_that_is_not_above_0_is_refused():
    with pytest.raises(InputError, match=r"has to be above 0; got 0\. Take 1"):
        Shaping(par=0.0)
