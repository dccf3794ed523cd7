import json

import pytest
import torch

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
    """A reward plus f(prompt)."""
    return Function(
        lambda samples: (
            reward(samples) + torch.tensor([offsets[prompt] for prompt in samples.prompts])
        )
    )


class TestRelative(RewardConformance):
    def make(self):
        return Relative(
            LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=2).eval(), REFERENCES
        )

    def samples(self):
        return ASKED


class TestRelativeImages(RewardConformance):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def make(self):
        return Relative(
            VisionReward(tiny_tower(), heads=2, width=8), Samples(["x", "x", "y", "y"], self.images)
        )

    def samples(self):
        return Samples(["y", "x", "y"], self.images[:3].flip(0))


def test_the_references_of_each_prompt_have_mean_0_and_the_pooled_deviation_is_1():
    reward = Relative(Length(), REFERENCES)
    scores = reward(REFERENCES)
    for prompt in "abc":
        own = scores[[i for i, name in enumerate(PROMPTS) if name == prompt]]
        torch.testing.assert_close(own.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.square().sum() / (6 - 3), torch.tensor(1.0))
    by_hand = ((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2 + 1 + 1) / 3
    torch.testing.assert_close(reward(ASKED)[2], torch.tensor((1 - 2) / by_hand**0.5))


def test_an_offset_of_each_prompt_and_a_scale_of_each_member_change_nothing_downstream():
    offsets = {"a": 40.0, "b": -300.0, "c": 7.5}
    plain = Ensemble([Length(), Repetition(n=1)])
    tripled = Function(lambda samples: 3 * Repetition(n=1)(samples))
    moved = Ensemble(
        [shifted(Length(), offsets), shifted(tripled, {"a": -9.0, "b": 0.0, "c": 2.0})]
    )
    one, other = (Relative(reward, REFERENCES) for reward in (plain, moved))
    torch.testing.assert_close(other.members(ASKED), one.members(ASKED), atol=1e-4, rtol=1e-4)
    for kind, weight in (("minimum", None), ("mean_minus_variance", 0.5)):
        scores = [
            Attack(reward, Pessimistic(reward, kind, weight))(ASKED) for reward in (one, other)
        ]
        torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-4)


def test_members_and_their_mean():
    reward = Relative(Ensemble([Length(), Repetition(n=1)]), REFERENCES)
    alone = [Relative(member, REFERENCES)(ASKED) for member in (Length(), Repetition(n=1))]
    torch.testing.assert_close(reward.members(ASKED), torch.stack(alone, 1))
    torch.testing.assert_close(reward(ASKED), torch.stack(alone, 1).mean(1))


def test_references_may_be_samples_a_mapping_or_a_file_of_constants(tmp_path):
    reward = Relative(Length(), REFERENCES)
    mapping = {
        prompt: [text for name, text in zip(PROMPTS, TEXTS, strict=True) if name == prompt]
        for prompt in "abc"
    }
    reward.save_constants(tmp_path / "constants.json")
    for references in (mapping, tmp_path / "constants.json", str(tmp_path / "constants.json")):
        torch.testing.assert_close(
            Relative(Length(), references)(ASKED), reward(ASKED), atol=0, rtol=0
        )


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(InputError, match="1 prompts have none, such as 'd'"):
        Relative(Length(), REFERENCES)(Samples(["a", "d"], ["x", "y"]))
    with pytest.raises(InputError, match="2 or more a prompt"):
        Relative(Length(), {"a": ["one"], "b": ["one two"]})
    with pytest.raises(InputError, match="score alike"):
        Relative(Length(), {"a": ["one", "two"], "b": ["one two", "two one"]})
    with pytest.raises(InputError, match="no references"):
        Relative(Length(), {"a": []})
    with pytest.raises(InputError, match="cannot be saved"):
        Relative(Length(), REFERENCES).save_pretrained(tmp_path / "reward")
    with pytest.raises(InputError, match="got images"):
        Relative(Length(), Samples(["a", "a"], torch.rand(2, 3, 4, 4)))


def test_broken_constants_are_refused(tmp_path):
    file = tmp_path / "constants.json"
    for text in ("{", "[]", '{"prompts": []}'):
        file.write_text(text)
        with pytest.raises(InputError, match="save_constants writes them"):
            Relative(Length(), file)
    file.write_text(json.dumps({"prompts": ["a"], "means": [[1.0], [2.0]], "deviations": [1.0]}))
    with pytest.raises(InputError, match="fit together"):
        Relative(Length(), file)
    Relative(Ensemble([Length(), Repetition(n=1)]), REFERENCES).save_constants(file)
    with pytest.raises(InputError, match="measured with 2 members, and Length has 1"):
        Relative(Length(), file)(ASKED)
    with pytest.raises(InputError, match="cannot be read"):
        Relative(Brightness(), tmp_path / "absent.json")
