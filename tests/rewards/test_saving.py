"""Rewards that are rules, functions, servers, or made of other rewards, come back from folders."""

import json
import sys
from importlib import import_module

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.rewards import (
    Attack,
    Brightness,
    Ensemble,
    Function,
    Length,
    Member,
    Novelty,
    Pessimistic,
    Relative,
    RemoteReward,
    Repetition,
    Reward,
    Standardized,
    VisionReward,
    Weighted,
    load_reward,
)
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

TEXTS = Samples(
    ["a", "b", "a", "b"],
    ["one two", "of of of of", "a word of a word", ""],
    {"length": torch.tensor([2, 4, 5, 0]), "finished": torch.tensor([True, True, True, False])},
)
REFERENCES = {"a": ["one", "two of two"], "b": ["a b c", "d d"]}
IMAGES = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PICTURES = Samples([""] * 40, IMAGES)
MODULE = """
import torch


def lengths(samples):
    return torch.tensor([float(len(text)) for text in samples.outputs])
"""


def both():
    return Ensemble([Length(), Repetition(n=1)])


def attack(**options):
    return Attack(Length(), Pessimistic(both()), **options)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def saved_and_loaded(reward, folder):
    reward.save_pretrained(folder)
    return load_reward(folder)


MADE_OF_TEXTS = {
    "length": Length(),
    "repetition": Repetition(n=3),
    "ensemble": both(),
    "ensemble of ensembles": Ensemble([both(), Length()]),
    "pessimistic": Pessimistic(both()),
    "pessimistic with a weight": Pessimistic(both(), "mean_minus_std", 0.7),
    "member": Member(both(), 1),
    "weighted": Weighted([Length(), Repetition()], [1.0, -2.5]),
    "standardized": Standardized(Length(), 0.3, 2.0),
    "relative": Relative(both(), REFERENCES),
    "attack": attack(threshold=1.5, weight=0.3, penalty=7.0),
    "attack with penalties": attack(
        threshold=0.0, max_length=4, length_penalty=9.0, unfinished_penalty=30.0
    ),
    "attack on a relative": Attack(Relative(Length(), REFERENCES), Repetition(n=1)),
}


@pytest.mark.parametrize("name", MADE_OF_TEXTS)
def test_rewards_of_texts_give_equal_scores_once_loaded(name, tmp_path):
    reward = MADE_OF_TEXTS[name]
    loaded = saved_and_loaded(reward, tmp_path / "reward")
    assert type(loaded) is type(reward)
    assert not loaded.training
    assert torch.equal(loaded(TEXTS), reward(TEXTS))
    assert torch.equal(loaded.members(TEXTS), reward.members(TEXTS))


def test_brightness_gives_equal_scores_once_loaded(tmp_path):
    loaded = saved_and_loaded(Brightness(), tmp_path / "reward")
    assert torch.equal(loaded(PICTURES), Brightness()(PICTURES))


def test_an_attack_keeps_its_settings_and_both_parts(tmp_path):
    reward = attack(
        weight=0.3,
        threshold=1.5,
        penalty=7.0,
        length_penalty=9.0,
        max_length=4,
        unfinished_penalty=30.0,
    )
    loaded = saved_and_loaded(reward, tmp_path / "reward")
    assert (loaded.weight, loaded.threshold, loaded.penalty) == (0.3, 1.5, 7.0)
    assert (loaded.length_penalty, loaded.max_length) == (9.0, 4)
    assert loaded.unfinished_penalty == 30.0
    assert torch.equal(loaded.parts(TEXTS), reward.parts(TEXTS))
    folders = [path.name for path in (tmp_path / "reward").iterdir() if path.is_dir()]
    assert sorted(folders) == ["target", "witness"]


def test_the_reference_threshold_is_saved_as_the_number_that_it_is(tmp_path):
    reward = Attack(Relative(Length(), REFERENCES), Repetition(n=1))
    loaded = saved_and_loaded(reward, tmp_path / "reward")
    assert loaded.threshold == 0.0


def test_what_a_policy_was_trained_on_comes_back_from_its_folder(tmp_path):
    """A standardised reward less the distance from references, as Adv-RM's rounds export it."""
    vision = VisionReward(tiny_tower(), heads=2, width=8).eval()
    novelty = Novelty(vision, PICTURES[:30])
    reward = Weighted([Standardized(vision, 0.3, 2.0), novelty], [1.0, 0.7]).eval()
    loaded = saved_and_loaded(reward, tmp_path / "reward")
    assert torch.equal(loaded(PICTURES[30:]), reward(PICTURES[30:]))
    assert fingerprint(loaded) == fingerprint(reward)


def test_a_guarded_ensemble_of_trained_rewards_comes_back(tmp_path):
    members = [VisionReward(tiny_tower(), width=8, seed=seed) for seed in (0, 1)]
    reward = Pessimistic(Ensemble(members), "mean_minus_variance", 0.5).eval()
    loaded = saved_and_loaded(reward, tmp_path / "reward")
    assert torch.equal(loaded(PICTURES), reward(PICTURES))


def nothing():
    return Function(lambda samples: torch.zeros(len(samples)))


MADE_OF_A_LAMBDA = {
    "function": nothing,
    "ensemble": lambda: Ensemble([Length(), nothing()]),
    "weighted": lambda: Weighted([Length(), nothing()], [1.0, 1.0]),
    "standardized": lambda: Standardized(nothing(), 0.0, 1.0),
    "pessimistic": lambda: Pessimistic(Ensemble([Length(), nothing()])),
    "member": lambda: Member(Ensemble([Length(), nothing()]), 0),
    "attack": lambda: Attack(Length(), nothing(), threshold=1.0),
    "deep inside": lambda: Ensemble([Length(), Standardized(Ensemble([nothing()]), 0.0, 1.0)]),
}


@pytest.mark.parametrize("name", MADE_OF_A_LAMBDA)
def test_what_is_made_of_a_lambda_is_refused_before_anything_is_written(name, tmp_path):
    reward = MADE_OF_A_LAMBDA[name]()
    with pytest.raises(InputError, match=r"function <lambda> cannot be saved.*Define it with"):
        reward.save_pretrained(tmp_path / "new" / "reward")
    assert not list(tmp_path.iterdir())


def test_a_relative_of_a_lambda_names_its_other_way_out(tmp_path):
    lengths = Function(lambda samples: torch.tensor([len(text) for text in samples.outputs]))
    reward = Relative(lengths, REFERENCES)
    with pytest.raises(InputError, match=r"cannot be saved.*save_constants"):
        reward.save_pretrained(tmp_path / "reward")
    assert not list(tmp_path.iterdir())


def test_a_reward_whose_part_cannot_be_described_is_refused_before_anything_is_written(tmp_path):
    model = tiny_tower()
    model.visual.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    vision = VisionReward(model, width=8)
    with pytest.raises(InputError, match="cannot be read off"):
        Ensemble([Brightness(), vision]).save_pretrained(tmp_path / "new" / "reward")
    assert not list(tmp_path.iterdir())


class OnlyCode(Reward):
    """A reward that does not say how it is saved."""

    def forward(self, samples):
        return torch.zeros(len(samples))


def test_a_part_that_does_not_say_how_it_is_saved_is_refused(tmp_path):
    with pytest.raises(InputError, match="OnlyCode cannot be saved, nor what is made of it"):
        Ensemble([Length(), OnlyCode()]).save_pretrained(tmp_path / "reward")
    assert not list(tmp_path.iterdir())


class Shouted(Length):
    """A subclass of a saved class: its folder must not name the class above."""

    def forward(self, samples):
        return 2 * super().forward(samples)


def test_a_subclass_is_not_loaded_as_the_class_above(tmp_path):
    Shouted().save_pretrained(tmp_path / "reward")
    assert config_of(tmp_path / "reward")["class_path"].endswith("test_saving.Shouted")
    with pytest.raises(InputError, match="not part of rewardlab"):
        load_reward(tmp_path / "reward")


def test_a_folder_that_lacks_a_setting_is_named(tmp_path):
    Repetition().save_pretrained(tmp_path / "reward")
    config = {"class_path": "rewardlab.rewards.Repetition"}
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config.json lacks n\. Is it edited"):
        load_reward(tmp_path / "reward")


class TestFunctionThatCanBeImported:
    @pytest.fixture
    def lengths(self, tmp_path, monkeypatch):
        (tmp_path / "saved_functions.py").write_text(MODULE)
        monkeypatch.syspath_prepend(tmp_path)
        yield import_module("saved_functions").lengths
        sys.modules.pop("saved_functions")

    def test_it_is_saved_by_its_import_path(self, lengths, tmp_path):
        reward = Function(lengths)
        reward.save_pretrained(tmp_path / "reward")
        assert config_of(tmp_path / "reward")["function"] == "saved_functions.lengths"
        loaded = load_reward(tmp_path / "reward", trust=True)
        assert torch.equal(loaded(TEXTS), reward(TEXTS))

    def test_it_is_loaded_only_with_trust(self, lengths, tmp_path):
        Function(lengths).save_pretrained(tmp_path / "reward")
        message = "names the function saved_functions.lengths.*trust=True"
        with pytest.raises(InputError, match=message):
            load_reward(tmp_path / "reward")

    def test_trust_reaches_it_inside_other_rewards(self, lengths, tmp_path):
        inside = Standardized(Ensemble([Function(lengths), Length()]), 1.0, 2.0)
        reward = Attack(Weighted([inside], [2.0]), Length(), threshold=0.5)
        reward.save_pretrained(tmp_path / "reward")
        with pytest.raises(InputError, match="names the function"):
            load_reward(tmp_path / "reward")
        loaded = load_reward(tmp_path / "reward", trust=True)
        assert torch.equal(loaded(TEXTS), reward(TEXTS))

    def test_one_that_is_gone_is_named(self, lengths, tmp_path):
        Function(lengths).save_pretrained(tmp_path / "reward")
        config = config_of(tmp_path / "reward")
        config["function"] = "saved_functions.widths"
        (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="widths, which cannot be imported"):
            load_reward(tmp_path / "reward", trust=True)


@pytest.mark.parametrize("function", [Length(), Length().forward, max.__call__])
def test_a_function_that_belongs_to_an_object_is_not_saved(function, tmp_path):
    with pytest.raises(InputError, match="cannot be saved"):
        Function(function).save_pretrained(tmp_path / "reward")
    assert not list(tmp_path.iterdir())


def test_a_function_of_a_script_is_not_saved(tmp_path, monkeypatch):
    import __main__

    monkeypatch.setattr(__main__, "scripted", config_of, raising=False)
    monkeypatch.setattr(config_of, "__module__", "__main__")
    monkeypatch.setattr(config_of, "__qualname__", "scripted")
    with pytest.raises(InputError, match="no other program can import"):
        Function(config_of).save_pretrained(tmp_path / "reward")


class TestRemoteReward:
    def reward(self, url="http://127.0.0.1:5000/rm", **options):
        return RemoteReward(url, key_variable="A_TEST_KEY", **options)

    def test_its_url_and_settings_come_back(self, tmp_path):
        reward = self.reward(query="<a>{response}", batch_size=3, timeout=2.0, retries=1, wait=0.1)
        reward.save_pretrained(tmp_path / "reward")
        loaded = load_reward(tmp_path / "reward", trust=True)
        settings = ("url", "query", "batch_size", "timeout", "retries", "wait", "key_variable")
        for name in settings:
            assert getattr(loaded, name) == getattr(reward, name)

    def test_the_token_is_not_written(self, tmp_path, monkeypatch):
        monkeypatch.setenv("A_TEST_KEY", "not-a-secret")
        self.reward().save_pretrained(tmp_path / "reward")
        files = [path for path in (tmp_path / "reward").rglob("*") if path.is_file()]
        assert files
        assert not any("not-a-secret" in file.read_text() for file in files)

    @pytest.mark.parametrize(
        "url", ["http://me:not-a-secret@127.0.0.1/rm", "http://127.0.0.1/rm?key=not-a-secret"]
    )
    def test_a_url_that_may_hold_a_token_is_refused(self, url, tmp_path):
        with pytest.raises(InputError, match="key_variable instead") as caught:
            Ensemble([Length(), self.reward(url)]).save_pretrained(tmp_path / "new" / "reward")
        assert "not-a-secret" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_loading_it_needs_trust_since_texts_and_a_token_would_go_there(self, tmp_path):
        self.reward().save_pretrained(tmp_path / "reward")
        message = "names the server http://127.0.0.1:5000/rm; .* texts, and the token in A_TEST_KEY"
        with pytest.raises(InputError, match=message):
            load_reward(tmp_path / "reward")
