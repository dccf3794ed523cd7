"""Conformance classes that every policy and reward can be tested with, and tiny models from a seed.

Subclass one in a test file, give it what it asks for, and pytest runs its checks::

    class TestMine(RewardConformance):
        def make(self):
            return MyReward()

        def samples(self):
            return Samples(["a", "b", "c"], torch.rand(3, 3, 8, 8))
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved, frozen_features
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import load_as
from rewardlab.testing.checks import check_column
from rewardlab.types import Samples

__all__ = ["RewardConformance"]


class RewardConformance:
    """The laws of every `Reward`. A subclass gives `make` and `samples`.

    `forward` is the score, float32 [B]; `members` are columns, float32 [B, M]; neither depends on
    the batch nor draws from the global generator. A reward with `mean_of_members` scores with the
    mean of its members; any other may score as it likes. A reward with frozen features gives its
    members from them. A saved reward scores the same once it is loaded, or refuses to be saved
    before anything is written.

    Attributes:
        atol: by how much a row's score may differ between batches.
    """

    atol: float = 1e-5

    def make(self) -> Reward:
        """Return the reward, the same one every time."""
        raise NotImplementedError

    def samples(self) -> Samples:
        """Return at least three different samples, the same ones every time."""
        raise NotImplementedError

    def ready(self) -> tuple[Reward, Samples]:
        """Return the reward in eval mode, and the samples."""
        return self.make().eval(), self.samples()

    def test_one_finite_score_a_sample(self) -> None:
        reward, samples = self.ready()
        check_column(reward(samples), (len(samples),))

    def test_members_are_columns(self) -> None:
        reward, samples = self.ready()
        members = reward.members(samples)
        assert members.dim() == 2, f"members have to be [B, M]; got {list(members.shape)}"
        count = members.shape[1]
        check_column(members, (len(samples), count))
        alone = reward.members(samples[:1])
        assert alone.shape[1] == count, "the number of members changes with the batch"

    def test_the_score_is_the_mean_of_the_members_where_that_is_promised(self) -> None:
        reward, samples = self.ready()
        if reward.mean_of_members:
            mean = reward.members(samples).mean(1)
            self._check_close(reward(samples), mean)

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        reward, samples = self.ready()
        for score in (reward, reward.members):
            whole = score(samples)
            rows = [score(samples[[row]]) for row in range(len(samples))]
            self._check_close(torch.cat(rows), whole)
            self._check_close(score(samples[[2, 0]]), whole[[2, 0]])

    def test_equal_input_gives_equal_scores_and_global_randomness_is_left_alone(self) -> None:
        reward, samples = self.ready()
        state = torch.get_rng_state()
        assert_close(reward(samples), reward(samples), atol=0, rtol=0)
        same_state = torch.equal(torch.get_rng_state(), state)
        assert same_state, "the reward draws from torch's global generator"

    def test_features_then_score_features_are_the_members(self) -> None:
        reward, samples = self.ready()
        frozen = frozen_features(reward)
        if frozen is not None:
            scores = frozen.score_features(frozen.features(samples))
            self._check_close(scores, reward.members(samples))

    def test_it_is_the_same_after_saving_and_loading(self, tmp_path: Path) -> None:
        reward, samples = self.ready()
        if not isinstance(reward, Saved):
            return
        folder = tmp_path / "reward"
        if not _can_be_saved(reward):
            _check_refuses_to_be_saved(reward, folder)
            return
        reward.save_pretrained(folder)
        loaded = load_as(type(reward), folder, trust=True).eval()
        self._check_close(loaded(samples), reward(samples))
        self._check_close(loaded.members(samples), reward.members(samples))

    def _check_close(self, scores: Tensor, expected: Tensor) -> None:
        assert_close(scores, expected, atol=self.atol, rtol=1e-4)


def _can_be_saved(reward: Saved) -> bool:
    try:
        reward.check_savable()
    except InputError:
        return False
    return True


def _check_refuses_to_be_saved(reward: Saved, folder: Path) -> None:
    try:
        reward.save_pretrained(folder)
    except InputError:
        assert not any(folder.parent.iterdir()), "a reward that cannot be saved wrote something"
        return
    raise AssertionError("check_savable refuses the reward, and save_pretrained does not")
