import json

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import Brightness, Ensemble, Function, VisionReward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.pessimism import Pessimistic
from rewardlab.rewards.relative import Relative
from rewardlab.rewards.rules import Length, Repetition
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

PROMPTS = ["a", "a", "a", "b", "b", "c"]
TEXTS = ["one", "one two", "one one one two", "one two three", "one", "one"]
REFERENCES = Samples(PROMPTS, TEXTS)
ASKED = Samples(["c", "a", "b", "b"], ["x y z", "x x", "x", "x y z w v"])


def shifted(reward, offsets):
    """Return a reward plus f(prompt)."""

    def scores(samples):
        shifts = torch.tensor([offsets[prompt] for prompt in samples.prompts])
        return reward(samples) + shifts

    return Function(scores)


def tripled(reward):
    return Function(lambda samples: 3 * reward(samples))


def by_prompt():
    """Return the references as a mapping of prompts to their responses."""
    responses = {"a": [], "b": [], "c": []}
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        responses[prompt].append(text)
    return responses


class TestRelative(RewardConformance):
    def make(self):
        reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=2)
        return Relative(reward.eval(), REFERENCES)

    def samples(self):
        return ASKED


class TestRelativeImages(RewardConformance):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def make(self):
        reward = VisionReward(tiny_tower(), heads=2, width=8)
        return Relative(reward, Samples(["x", "x", "y", "y"], self.images))

    def samples(self):
        return Samples(["y", "x", "y"], self.images[:3].flip(0))


class TestScale:
    reward = Relative(Length(), REFERENCES)

    @pytest.mark.parametrize("prompt", ["a", "b", "c"])
    def test_the_references_of_each_prompt_have_mean_0(self, prompt):
        rows = torch.tensor([name == prompt for name in PROMPTS])
        mean = self.reward(REFERENCES)[rows].mean()
        assert_close(mean, torch.tensor(0.0), atol=1e-6, rtol=0)

    def test_the_pooled_deviation_is_1(self):
        variance = self.reward(REFERENCES).square().sum() / (6 - 3)
        assert_close(variance, torch.tensor(1.0))

    def test_a_score_by_hand(self):
        squares_of_a = (1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2
        variance = (squares_of_a + 1 + 1) / 3
        expected = torch.tensor((1 - 2) / variance**0.5)
        assert_close(self.reward(ASKED)[2], expected)


class TestOffsetsAndScales:
    """An offset of each prompt and a scale of each member change nothing downstream."""

    plain = Relative(Ensemble([Length(), Repetition(n=1)]), REFERENCES)
    moved_length = shifted(Length(), {"a": 40.0, "b": -300.0, "c": 7.5})
    moved_repetition = shifted(tripled(Repetition(n=1)), {"a": -9.0, "b": 0.0, "c": 2.0})
    moved = Relative(Ensemble([moved_length, moved_repetition]), REFERENCES)

    def test_members_stay_the_same(self):
        members = self.plain.members(ASKED)
        assert_close(self.moved.members(ASKED), members, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(("kind", "weight"), [("minimum", None), ("mean_minus_variance", 0.5)])
    def test_attacks_stay_the_same(self, kind, weight):
        plain = Attack(self.plain, Pessimistic(self.plain, kind, weight))
        moved = Attack(self.moved, Pessimistic(self.moved, kind, weight))
        assert_close(moved(ASKED), plain(ASKED), atol=1e-4, rtol=1e-4)


def test_members_and_their_mean():
    parts = [Length(), Repetition(n=1)]
    reward = Relative(Ensemble(parts), REFERENCES)
    alone = [Relative(part, REFERENCES)(ASKED) for part in parts]
    expected = torch.stack(alone, 1)
    assert_close(reward.members(ASKED), expected)
    assert_close(reward(ASKED), expected.mean(1))


def test_references_may_be_samples_a_mapping_or_a_file_of_constants(tmp_path):
    expected = Relative(Length(), REFERENCES)(ASKED)
    file = tmp_path / "constants.json"
    Relative(Length(), REFERENCES).save_constants(file)
    for references in (by_prompt(), file, str(file)):
        scores = Relative(Length(), references)(ASKED)
        assert_close(scores, expected, atol=0, rtol=0)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="1 prompts have none, such as 'd'"):
        Relative(Length(), REFERENCES)(Samples(["a", "d"], ["x", "y"]))
    with pytest.raises(InputError, match="2 or more a prompt"):
        Relative(Length(), {"a": ["one"], "b": ["one two"]})
    with pytest.raises(InputError, match="score alike"):
        Relative(Length(), {"a": ["one", "two"], "b": ["one two", "two one"]})
    with pytest.raises(InputError, match="no references"):
        Relative(Length(), {"a": []})
    images = Samples(["a", "a"], torch.rand(2, 3, 4, 4))
    with pytest.raises(InputError, match="got images"):
        Relative(Length(), images)


@pytest.mark.parametrize("text", ["{", "[]", '{"prompts": []}'])
def test_broken_constants_are_refused(text, tmp_path):
    file = tmp_path / "constants.json"
    file.write_text(text)
    with pytest.raises(InputError, match="save_constants writes them"):
        Relative(Length(), file)


def test_constants_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Relative(Brightness(), tmp_path / "absent.json")


def test_constants_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "constants.json"
    constants = {"prompts": ["a"], "means": [[1.0], [2.0]], "deviations": [1.0]}
    file.write_text(json.dumps(constants))
    with pytest.raises(InputError, match="fit together"):
        Relative(Length(), file)
    both = Ensemble([Length(), Repetition(n=1)])
    Relative(both, REFERENCES).save_constants(file)
    with pytest.raises(InputError, match="measured with 2 members, and Length has 1"):
        Relative(Length(), file)(ASKED)
