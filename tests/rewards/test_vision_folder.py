import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.rewards import VisionReward, load_reward
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

IMAGES = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(["a cat", "a dog", "a cat", ""], IMAGES)


def reward(tower=None, heads=3, **options):
    return VisionReward(tower or tiny_tower(), heads=heads, width=8, **options).eval()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@torch.no_grad()
def moved(made):
    """Stand in for training: fit the scale, move the weights, calibrate."""
    made.fit_feature_scale(made.features(SAMPLES))
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.add_(0.01)
    made.calibrate(made(SAMPLES))
    made.meaning = "score: bootstrapped"
    return made


@pytest.mark.parametrize(
    "options",
    [{}, {"unlocked_groups": 2, "conditional": True, "feature_share": 0.5, "resize": True}],
)
def test_a_saved_reward_scores_the_same(tmp_path, options):
    mine = moved(reward(**options))
    mine.save_pretrained(tmp_path / "reward")
    assert names_in(tmp_path) == ["reward"]
    loaded = load_reward(tmp_path / "reward")
    members = mine.members(SAMPLES)
    assert_close(loaded.members(SAMPLES), members, atol=1e-5, rtol=1e-5)
    assert loaded.meaning == "score: bootstrapped"
    assert loaded.score_std == mine.score_std
    assert not loaded.training
    assert loaded.frozen_fingerprint() == mine.frozen_fingerprint()
    assert load_tower(f"local-dir:{tmp_path / 'reward' / 'tower'}").width == 32


class TestWithoutItsTower:
    @pytest.fixture
    def folder(self, tmp_path):
        reward().save_pretrained(tmp_path / "reward", tower=False)
        return tmp_path / "reward"

    def test_it_is_small(self, folder):
        assert names_in(folder) == ["config.json", "model.safetensors"]
        tensors = load_file(folder / "model.safetensors")
        assert not any(name.startswith("tower") for name in tensors)

    def test_it_takes_the_tower_that_is_given(self, folder):
        shared = tiny_tower()
        loaded = VisionReward.from_pretrained(folder, tower=shared)
        assert loaded.tower.model is shared
        assert_close(loaded(SAMPLES), reward()(SAMPLES), atol=1e-5, rtol=1e-5)

    def test_it_asks_for_the_right_one(self, folder):
        with pytest.raises(InputError, match="saved without its tower"):
            VisionReward.from_pretrained(folder)
        with pytest.raises(InputError, match="trained on another tower"):
            VisionReward.from_pretrained(folder, tower=tiny_tower(seed=1))


class TestOfANamedTower:
    @pytest.fixture
    def name(self, tmp_path):
        load_tower(tiny_tower()).save(tmp_path / "tower")
        return f"local-dir:{tmp_path / 'tower'}"

    def test_the_tower_is_found_again(self, name, tmp_path):
        mine = reward(name)
        mine.save_pretrained(tmp_path / "reward", tower=False)
        config = json.loads((tmp_path / "reward" / "config.json").read_text())
        assert config["init_args"]["tower"] == name
        loaded = VisionReward.from_pretrained(tmp_path / "reward")
        assert_close(loaded(SAMPLES), mine(SAMPLES), atol=1e-5, rtol=1e-5)

    def test_the_tower_is_verified(self, name, tmp_path):
        reward(name).save_pretrained(tmp_path / "reward", tower=False)
        load_tower(tiny_tower(seed=1)).save(tmp_path / "tower")
        with pytest.raises(InputError, match="trained on another tower than local-dir"):
            VisionReward.from_pretrained(tmp_path / "reward")


def test_saving_replaces_an_earlier_reward_and_nothing_else(tmp_path):
    reward(heads=1).save_pretrained(tmp_path / "reward")
    reward(heads=2).save_pretrained(tmp_path / "reward", tower=False)
    assert not (tmp_path / "reward" / "tower").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not replaced"):
        reward().save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_save_that_fails_leaves_nothing(tmp_path):
    model = tiny_tower()
    model.visual.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(InputError, match="cannot be read off"):
        reward(model).save_pretrained(tmp_path / "reward")
    assert not list(tmp_path.iterdir())


def without_config(folder):
    (folder / "config.json").unlink()


def with_cut_config(folder):
    (folder / "config.json").write_text("{")


def with_another_config(folder):
    (folder / "config.json").write_text('{"architectures": []}')


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def with_cut_weights(folder):
    (folder / "model.safetensors").write_bytes(b"short")


def with_argument(folder, name, value):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["init_args"][name] = value
    file.write_text(json.dumps(config))


def with_another_head(folder):
    with_argument(folder, "heads", 4)


def without_tower(folder):
    with_argument(folder, "tower", None)


OPTIONS = list(reward().options)
ODD_VALUES = [None, -1, 0, 10**12, 2.5, "x", [], {}, True, float("nan")]


@pytest.mark.parametrize(
    "name",
    [*OPTIONS, "tower", "pretrained", "gelu", "preprocessing", "zoom"],
)
def test_odd_options_are_harmless_or_refused(tmp_path, name):
    reward().save_pretrained(tmp_path / "reward")
    refused = 0
    for value in ODD_VALUES:
        with_argument(tmp_path / "reward", name, value)
        try:
            loaded = VisionReward.from_pretrained(tmp_path / "reward")
        except InputError:
            refused += 1
        else:
            assert torch.isfinite(loaded(SAMPLES)).all()
    assert refused >= 3 or name in ("resize", "conditional", "gradient_checkpointing")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_config, "holds no config.json"),
        (with_cut_config, "not readable JSON"),
        (with_another_config, "names no class_path"),
        (without_weights, "holds no model.safetensors"),
        (with_cut_weights, "not a readable safetensors file"),
        (with_another_head, "does not fit config.json"),
        (without_tower, "saved without its tower"),
    ],
)
def test_damaged_folders_are_named(tmp_path, damage, message):
    reward().save_pretrained(tmp_path / "reward")
    damage(tmp_path / "reward")
    with pytest.raises(InputError, match=message):
        VisionReward.from_pretrained(tmp_path / "reward")
