"""What ranks: a reward's own score, which need not be the mean of its members."""

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation.judges import preferences, win_rate
from rewardlab.mining import BestOf, best_and_worst
from rewardlab.policies import CallableGenerator
from rewardlab.rewards import Reward, member_scores, scores_of
from rewardlab.rewards.scoring import scores_and_members
from rewardlab.seeds import row_seeds
from rewardlab.testing import RewardConformance
from rewardlab.types import PreferencePairs, Samples

TEXTS = ["loved by one", "liked by both"]
MEMBERS = {"loved by one": [0.0, 10.0], "liked by both": [4.0, 4.0]}
SAMPLES = Samples(["hi", "hi"], TEXTS)


class Doubtful(Reward):
    """The minimum of two members: the mean of the members ranks the other way round."""

    def forward(self, samples):
        return self.members(samples).amin(1)

    def members(self, samples):
        return torch.tensor([MEMBERS[text] for text in samples.outputs])


class TestDoubtful(RewardConformance):
    def make(self):
        return Doubtful()

    def samples(self):
        return Samples(["hi"] * 3, [TEXTS[0], TEXTS[1], TEXTS[0]])


def test_the_score_is_the_minimum_and_the_members_are_kept():
    assert scores_of(Doubtful(), SAMPLES).tolist() == [0.0, 4.0]
    assert member_scores(Doubtful(), SAMPLES).tolist() == [[0.0, 10.0], [4.0, 4.0]]
    both = scores_and_members(Doubtful(), SAMPLES)
    assert both.scores.tolist() == [0.0, 4.0]
    assert both.members.mean(1).tolist() == [5.0, 4.0]


def either(prompts, seeds):
    """Draw one of the two texts, each by half of the seeds."""
    return [TEXTS[seed % 2] for seed in seeds.tolist()]


def test_mining_chooses_by_the_score():
    policy = CallableGenerator(either)
    pairs = best_and_worst(policy, Doubtful(), ["a", "b"], k=8, seed=0)
    assert pairs.chosen.outputs == ["liked by both"] * 2
    assert pairs.rejected.outputs == ["loved by one"] * 2
    assert pairs.chosen.facts["score"].tolist() == [4.0, 4.0]


def test_best_of_n_chooses_by_the_score():
    best = BestOf(CallableGenerator(either), Doubtful(), n=8)
    samples = best.generate(["a", "b", "c"], seeds=row_seeds(0, 3))
    assert samples.outputs == ["liked by both"] * 3


def test_win_rates_are_of_the_score():
    both = Samples(["hi", "hi"], ["liked by both"] * 2)
    one = Samples(["hi", "hi"], ["loved by one"] * 2)
    pairs = PreferencePairs(both, one)
    assert preferences(Doubtful(), pairs).tolist() == [1.0, 1.0]
    assert win_rate(Doubtful(), pairs)["win_rate"] == 1.0


def test_no_samples_at_all_are_a_sentence():
    with pytest.raises(InputError, match="Doubtful was asked to score no samples"):
        scores_of(Doubtful(), SAMPLES[:0])
