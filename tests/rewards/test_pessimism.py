from copy import deepcopy

import numpy as np
import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.rewards import Brightness, Ensemble, Function, VisionReward
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.pessimism import Member, Pessimistic, averaged, fork
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

SCORES = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 3.0]])
ROWS = Samples([""] * 3, list("012"))
IMAGES = Samples([""] * 3, torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def members(scores=SCORES):
    return Ensemble(
        [
            Function(lambda samples, m=m: scores[[int(text) for text in samples.outputs], m])
            for m in range(scores.shape[1])
        ]
    )


class TestPessimistic(RewardConformance):
    def make(self):
        return Pessimistic(members(), "mean_minus_std", 1.0)

    def samples(self):
        return ROWS


def test_the_formulas():
    """WCO is the minimum; UWO the mean less λ times the variance; variance and deviation are the
    unbiased ones.
    """
    columns = SCORES.numpy()
    expected = {
        ("mean", None): columns.mean(1),
        ("minimum", None): columns.min(1),
        ("mean_minus_variance", 0.1): columns.mean(1) - 0.1 * np.var(columns, axis=1, ddof=1),
        ("mean_minus_std", 2.0): columns.mean(1) - 2 * np.std(columns, axis=1, ddof=1),
    }
    for (kind, weight), scores in expected.items():
        reward = Pessimistic(members(), kind, weight)
        torch.testing.assert_close(reward(ROWS), torch.tensor(scores))
        torch.testing.assert_close(reward.members(ROWS), torch.tensor(scores)[:, None])


def test_weights_where_they_belong_and_members_to_compare():
    with pytest.raises(InputError, match="weight=None"):
        Pessimistic(members(), "mean_minus_std")
    with pytest.raises(InputError, match=r"weight=1\.0"):
        Pessimistic(members(), "minimum", 1.0)
    with pytest.raises(InputError, match="Ensemble has one"):
        Pessimistic(members(SCORES[:, :1]))(ROWS)
    torch.testing.assert_close(Pessimistic(members(SCORES[:, :1]), "mean")(ROWS), SCORES[:, 0])


def test_a_member_is_its_column():
    torch.testing.assert_close(Member(members(), 2)(ROWS), SCORES[:, 2])
    for index in (3, -1):
        with pytest.raises(InputError, match="with 3 members"):
            Member(members(), index)(ROWS)


def moved(reward, seed):
    """Stand in for training: move what is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in reward.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return reward


def test_averaged_weights_are_the_mean_and_frozen_ones_are_shared():
    start = VisionReward(tiny_tower(), heads=2, width=8)
    start.calibrate(torch.tensor([0.0, 1.0]))
    forks = [moved(copy, seed) for seed, copy in enumerate(fork(start, 3))]
    before = [deepcopy(copy.state_dict()) for copy in forks]
    result = averaged(forks)
    for name, weight in result.state_dict().items():
        if not name.startswith("score_"):
            torch.testing.assert_close(
                weight, torch.stack([state[name] for state in before]).mean(0)
            )
    assert result.score_std == 0
    frozen = {id(weight) for weight in start.parameters() if not weight.requires_grad}
    assert frozen
    assert frozen == {id(weight) for weight in result.parameters() if not weight.requires_grad}
    for copy, state in zip(forks, before, strict=True):
        assert all(torch.equal(weight, state[name]) for name, weight in copy.state_dict().items())


def test_a_linear_head_averages_to_the_mean_of_its_scores():
    start = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True).eval()
    texts = Samples(["hi", "hi"], ["hello", "go away"])
    forks = [moved(copy, seed) for seed, copy in enumerate(fork(start, 2))]
    expected = torch.stack([copy(texts) for copy in forks]).mean(0)
    assert not torch.allclose(expected, forks[0](texts))
    torch.testing.assert_close(averaged(forks)(texts), expected)


def test_what_has_no_common_start_is_refused():
    tower = tiny_tower()
    apart = [VisionReward(tower, width=8, seed=seed) for seed in range(2)]
    with pytest.raises(InputError, match="2 of 2 carry no record"):
        averaged(apart)
    averaged([deepcopy(apart[0]), apart[0]], forked=True)
    with pytest.raises(InputError, match="forks of different rewards"):
        averaged([fork(reward, 1)[0] for reward in apart])
    with pytest.raises(InputError, match="forks of different rewards"):
        averaged([fork(reward, 1)[0] for reward in apart], forked=True)
    with pytest.raises(InputError, match="one class"):
        averaged([apart[0], VisionReward(tower, width=16)], forked=True)
    with pytest.raises(InputError, match="one class"):
        averaged([apart[0], Brightness()], forked=True)
    with pytest.raises(InputError, match="two or more"):
        averaged(apart[:1], forked=True)
    with pytest.raises(InputError, match="stand on other models"):
        averaged([VisionReward(tiny_tower(seed), width=8) for seed in range(2)], forked=True)
