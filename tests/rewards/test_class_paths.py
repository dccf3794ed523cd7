"""Folders name public class paths, and those of earlier versions, by file, still load."""

import json
import runpy
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import rewardlab.rewards
from rewardlab.rewards import (
    AestheticReward,
    Attack,
    Bottleneck,
    Brightness,
    Cautious,
    Certainty,
    ClassifierReward,
    Corrected,
    Debiased,
    Ensemble,
    Fact,
    Framewise,
    Function,
    Gated,
    ImageReward,
    LanguageReward,
    Length,
    Member,
    Novelty,
    Outliers,
    Panel,
    Pessimistic,
    Relative,
    RemoteReward,
    Repetition,
    Saved,
    SimilarityReward,
    SoftMinimum,
    Standardized,
    TextFunction,
    Tolerant,
    TRLFunction,
    VisionReward,
    Weighted,
    load_reward,
)
from rewardlab.storage.class_paths import EARLIER_PATHS
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer, tiny_tower
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_models.py"))))
PUBLISHED = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_published.py"))))
TEXTS = Samples(["a", "b", "a"], ["one two", "of of of of", "a word of a word"])
REFERENCES = {"a": ["one", "two of two"], "b": ["a b c", "d d"]}
IMAGES = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PICTURES = Samples([""] * 40, IMAGES)


def both():
    return Ensemble([Length(), Repetition(n=1)])


def zeros(samples):
    return torch.zeros(len(samples))


def words(prompt, response):
    return float(len(response.split()))


def lengths(completions, **columns):
    return [float(len(text)) for text in completions]


def encoder():
    return ClassifierReward(TINY.encoder(), TINY.tokenizer())


def vision():
    return VisionReward(tiny_tower(), heads=2, width=8)


def aesthetic():
    with TemporaryDirectory() as place:
        file, _ = PUBLISHED.random_chain(Path(place))
        return AestheticReward(tiny_tower(), file)


def image_reward():
    with TemporaryDirectory() as place:
        torch.save(PUBLISHED.blip_layout(), Path(place) / "ImageReward.pt")
        return ImageReward(Path(place) / "ImageReward.pt", PUBLISHED.bert_tokenizer())


MADE = {
    "AestheticReward": aesthetic,
    "Attack": lambda: Attack(Length(), Repetition(), threshold=1.0),
    "Bottleneck": lambda: Bottleneck(vision(), width=4),
    "Brightness": Brightness,
    "Cautious": lambda: Cautious(both(), TEXTS, "mean_minus_variance", 0.5),
    "Certainty": lambda: Certainty(Bottleneck(vision(), width=4)),
    "ClassifierReward": encoder,
    "Corrected": lambda: Corrected(both(), Repetition(n=1)),
    "Debiased": lambda: Debiased(both(), TEXTS, [Length()], share=1.0),
    "Ensemble": both,
    "Fact": lambda: Fact("length"),
    "Framewise": lambda: Framewise(vision()),
    "Function": lambda: Function(zeros),
    "Gated": lambda: Gated(Length(), TEXTS, Repetition()),
    "ImageReward": image_reward,
    "LanguageReward": lambda: LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=2),
    "Length": Length,
    "Member": lambda: Member(both(), 1),
    "Novelty": lambda: Novelty(vision(), PICTURES[:30]),
    "Outliers": lambda: Outliers(vision(), PICTURES, level=0.2),
    "Panel": lambda: Panel([vision(), vision()]),
    "Pessimistic": lambda: Pessimistic(both()),
    "Relative": lambda: Relative(both(), REFERENCES),
    "RemoteReward": lambda: RemoteReward("http://127.0.0.1:5000"),
    "Repetition": Repetition,
    "SimilarityReward": lambda: SimilarityReward(tiny_tower()),
    "SoftMinimum": lambda: SoftMinimum(both(), TEXTS),
    "Standardized": lambda: Standardized(Length(), 0.3, 2.0),
    "TRLFunction": lambda: TRLFunction(lengths),
    "TextFunction": lambda: TextFunction(words),
    "Tolerant": lambda: Tolerant(Length(), 0.1),
    "VisionReward": vision,
    "Weighted": lambda: Weighted([Length(), Repetition()], [1.0, -2.5]),
}
OF_IMAGES = ("Bottleneck", "Brightness", "Certainty", "Novelty", "VisionReward")


def config_file(folder):
    reward_file = folder / "reward.json"
    return reward_file if reward_file.is_file() else folder / "config.json"


def class_path_in(folder):
    return json.loads(config_file(folder).read_text())["class_path"]


def saved_classes():
    """Return the names of the public rewards that are saved."""
    names = []
    for name in rewardlab.rewards.__all__:
        offered = getattr(rewardlab.rewards, name)
        if isinstance(offered, type) and issubclass(offered, Saved) and offered is not Saved:
            names.append(name)
    return names


def test_every_saved_class_is_tested_here():
    assert sorted(MADE) == saved_classes()


@pytest.mark.parametrize("name", saved_classes())
def test_every_saved_class_writes_its_public_path(name, tmp_path):
    MADE[name]().save_pretrained(tmp_path / "reward")
    assert class_path_in(tmp_path / "reward") == f"rewardlab.rewards.{name}"


@pytest.mark.parametrize("earlier", EARLIER_PATHS)
def test_a_folder_of_an_earlier_version_loads_and_scores_the_same(earlier, tmp_path):
    name = EARLIER_PATHS[earlier].rpartition(".")[2]
    reward = MADE[name]().eval()
    reward.save_pretrained(tmp_path / "reward")
    file = config_file(tmp_path / "reward")
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"class_path": earlier}))
    samples = PICTURES[30:] if name in OF_IMAGES else TEXTS
    with torch.no_grad():
        loaded = load_reward(tmp_path / "reward")
        assert type(loaded) is type(reward)
        assert_close(loaded.members(samples), reward.members(samples), atol=1e-6, rtol=1e-5)


def test_earlier_paths_hold_inside_other_rewards_too(tmp_path):
    reward = Ensemble([Standardized(Length(), 0.3, 2.0), Length()])
    reward.save_pretrained(tmp_path / "reward")
    file = config_file(tmp_path / "reward" / "0")
    config = json.loads(file.read_text())
    earlier = {"class_path": "rewardlab.rewards.combine.Standardized"}
    file.write_text(json.dumps(config | earlier))
    loaded = load_reward(tmp_path / "reward")
    assert torch.equal(loaded(TEXTS), reward(TEXTS))
