import json
import subprocess
import sys

import pytest

from rewardlab.errors import InputError
from rewardlab.rewards import load_reward
from rewardlab.storage.atomic import new_folder


@pytest.mark.parametrize(
    ("class_path", "words"),
    [
        ("os.system", "not part of rewardlab"),
        ("rewardlab_evil.Reward", "not part of rewardlab"),
        ("rewardlab.rewards.NoSuchReward", "cannot be imported"),
        ("rewardlab.nowhere.Reward", "cannot be imported"),
        ("rewardlab.types.Samples", "not a Reward"),
        ("rewardlab.rewards.Brightness", "not a Reward that loads"),
    ],
)
def test_classes_that_are_not_trusted_or_no_rewards_are_refused(tmp_path, class_path, words):
    (tmp_path / "config.json").write_text(json.dumps({"class_path": class_path}))
    with pytest.raises(InputError, match=words):
        load_reward(tmp_path)


def test_trusted_classes_are_imported(tmp_path, monkeypatch):
    (tmp_path / "my_reward.py").write_text(
        "from rewardlab.rewards import Brightness, Saved\n\n\n"
        "class Mine(Brightness, Saved):\n    def save_pretrained(self, folder):\n        pass\n\n"
        "    @classmethod\n    def from_pretrained(cls, folder):\n        return cls()\n"
    )
    (tmp_path / "config.json").write_text(json.dumps({"class_path": "my_reward.Mine"}))
    monkeypatch.syspath_prepend(tmp_path)
    assert type(load_reward(tmp_path, trust=True)).__name__ == "Mine"


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
    code = (
        "import sys, rewardlab.rewards, rewardlab.testing\n"
        "from rewardlab.rewards import VisionReward, Ensemble, load_reward\n"
        "print([name for name in ('open_clip', 'torchvision', 'sklearn', 'transformers', 'pytest') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
