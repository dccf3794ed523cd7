import json
import subprocess
import sys

import pytest

from rewardlab.errors import InputError
from rewardlab.rewards import Ensemble, Length, load_reward
from rewardlab.storage.atomic import new_folder

MINE = """
from rewardlab.rewards import Brightness, Saved


class Mine(Brightness, Saved):
    def save_pretrained(self, folder):
        pass

    @classmethod
    def from_pretrained(cls, folder):
        return cls()
"""
HEAVY = ("open_clip", "torchvision", "sklearn", "transformers", "pytest")
IMPORTS = f"""
import sys, rewardlab.rewards, rewardlab.testing
from rewardlab.rewards import VisionReward, Ensemble, load_reward
print([name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("os.system", "not part of rewardlab"),
        ("rewardlab_evil.Reward", "not part of rewardlab"),
        ("rewardlab.rewards.NoSuchReward", "cannot be imported"),
        ("rewardlab.nowhere.Reward", "cannot be imported"),
        ("rewardlab.types.Samples", "not a Reward"),
        ("rewardlab.rewards.Reward", "not a Reward that loads"),
    ],
)
def test_classes_that_are_not_trusted_or_no_rewards_are_refused(tmp_path, class_path, message):
    (tmp_path / "config.json").write_text(json.dumps({"class_path": class_path}))
    with pytest.raises(InputError, match=message):
        load_reward(tmp_path)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder that names a class from outside."""
    (tmp_path / "my_reward.py").write_text(MINE)
    (tmp_path / "config.json").write_text(json.dumps({"class_path": "my_reward.Mine"}))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_reward", None)


def test_trusted_classes_are_imported(mine):
    assert type(load_reward(mine, trust=True)).__name__ == "Mine"


def test_trust_holds_for_the_parts_of_a_reward_too(mine):
    whole = mine / "whole"
    Ensemble([Length()]).save_pretrained(whole)
    (whole / "0" / "config.json").write_text((mine / "config.json").read_text())
    with pytest.raises(InputError, match=r"my_reward\.Mine, which is not part of rewardlab"):
        load_reward(whole)
    part = load_reward(whole, trust=True).rewards[0]
    assert type(part).__name__ == "Mine"


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def write(text, fail=False):
        with new_folder(tmp_path / "deep" / "reward") as folder:
            (folder / "config.json").write_text(text)
            assert not fail, "stopped half way"

    with pytest.raises(AssertionError, match="half way"):
        write("first", fail=True)
    assert not list((tmp_path / "deep").iterdir())
    write("second")
    with pytest.raises(AssertionError, match="half way"):
        write("third", fail=True)
    assert (tmp_path / "deep" / "reward" / "config.json").read_text() == "second"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["reward"]


def test_rewards_import_without_open_clip():
    run = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_runs_folder_and_an_export_say_what_to_give(tmp_path):
    Length().save_pretrained(tmp_path / "run" / "reward")
    with pytest.raises(InputError, match=r"a run's or a stage's folder: give .*run/reward"):
        load_reward(tmp_path / "run")
    files = {"model.onnx": "", "reward.py": "", "config.json": '{"auto_map": {}}'}
    for name, content in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
        with pytest.raises(InputError, match="give the reward that was exported"):
            load_reward(tmp_path / name)
