"""Names of earlier versions in configs and flags are read as those of today, with one warning."""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module

import pytest

from rewardlab import cli
from rewardlab.commands import earlier_names
from rewardlab.commands.earlier_names import current_names
from rewardlab.commands.parsing import PASSES, prepared

TOYS = """
from rewardlab.rounds.base import Rounds

class Loop:
    def __init__(self, learning_rate: float = 0.1, note: str = ""):
        self.learning_rate, self.note = learning_rate, note

class Game(Rounds):
    def __init__(self, loop: Loop, others: list[Loop] | None = None, seed: int = 0):
        self.loop, self.others, self.seed = loop, others or [], seed

    def run(self, run):
        run.results({"rate": self.loop.learning_rate, "note": self.loop.note, "seed": self.seed})
        run.results({"others": [loop.learning_rate for loop in self.others]})
"""
CONFIG = """\
# lerning_rate: a comment stays as it is
experiment: {seed: 3}
rounds:
  class_path: "names_toys.OldGame"
  init_args:
    seed: ${experiment.seed}
    loop:
      init_args: {lerning_rate: 1e-3, note: lerning_rate}
      class_path: names_toys.Loop
    others:
      - {class_path: names_toys.Loop, init_args: {lerning_rate: 7}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A config of an earlier version, in which Game was OldGame and learning_rate misspelt."""
    (tmp_path / "names_toys.py").write_text(TOYS)
    (tmp_path / "old.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("names_toys", None)
    names = {"names_toys.OldGame": "names_toys.Game", "names_toys.Loop": "names_toys.NewLoop"}
    arguments = {"names_toys.Loop": {"lerning_rate": "learning_rate"}}
    monkeypatch.setattr(earlier_names, "EARLIER_NAMES", names)
    monkeypatch.setattr(earlier_names, "EARLIER_ARGUMENTS", arguments)
    return tmp_path


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    """The warnings of rewardlab's logger, which keeps them from the root."""
    logger = logging.getLogger("rewardlab")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    yield lambda: [item.getMessage() for item in caplog.records if item.levelname == "WARNING"]
    logger.removeHandler(caplog.handler)


def figures(run):
    return json.loads((run / "results.json").read_text())


def test_a_config_of_an_earlier_version_runs_with_one_warning(place, warnings_of):
    """`names_toys.NewLoop` does not exist yet, so `names_toys.Loop` stays what it is."""
    argv = ["rounds", "--config", "old.yaml", "--out", "run"]
    assert cli.main(argv) == 0
    expected = {"rate": 1e-3, "note": "lerning_rate", "seed": 3, "others": [7.0]}
    assert figures(place / "run") == expected
    (warning,) = warnings_of()
    assert warning.count("names_toys.OldGame is now names_toys.Game") == 1
    assert warning.count("lerning_rate of names_toys.Loop is now learning_rate") == 1
    assert "NewLoop" not in warning
    assert (place / "old.yaml").read_text() == CONFIG
    assert "names_toys.Game" in (place / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    "flag",
    [
        ["--rounds.init_args.loop.init_args.lerning_rate=5"],
        ["--rounds.loop.lerning_rate", "5"],
        ["--config", "more.yaml"],
        ["--config=more.yaml"],
    ],
)
def test_later_flags_and_files_know_the_class_that_an_earlier_one_names(place, flag):
    more = "rounds: {init_args: {loop: {init_args: {'lerning_rate': 5}}}}\n"
    (place / "more.yaml").write_text(more)
    assert cli.main(["rounds", "--config", "old.yaml", "--out=run", *flag]) == 0
    assert figures(place / "run")["rate"] == 5


def test_a_class_may_be_named_by_a_flag(place):
    argv = ["--rounds=names_toys.OldGame", "--rounds.loop", "names_toys.Loop"]
    argv += ["--rounds.loop.lerning_rate=4", "--out=run"]
    assert cli.main(["rounds", *argv]) == 0
    assert figures(place / "run")["rate"] == 4


def test_what_has_no_earlier_name_stays_word_for_word(place, warnings_of):
    (place / "new.yaml").write_text("rounds: {class_path: names_toys.Game}\n")
    argv = ["--config=new.yaml", "--rounds.lerning_rate=3", "--resume", "--x", "-1"]
    assert current_names(argv) == argv
    assert warnings_of() == []


def test_an_argument_of_another_class_keeps_its_name(place):
    config = CONFIG.replace("names_toys.Loop", "names_toys.Other")
    (place / "other.yaml").write_text(config)
    (word,) = current_names(["--config=other.yaml"])
    assert word == "--config=" + config.replace("names_toys.OldGame", "names_toys.Game")


def test_the_passes_have_names_and_one_function_runs_them(place):
    names = [step.__name__ for step in PASSES]
    assert names == [
        "out_in_experiment",
        "joined_configs",
        "readable_configs",
        "used_paths",
        "current_names",
        "null_configs",
    ]
    argv = ["--out=a", "-c", "old.yaml", "--rounds.loop.note", "null", "--rounds.seed=1"]
    words = prepared(argv)
    assert words[0] == "--experiment.out=a"
    assert words[1].startswith("--config=# lerning_rate: a comment stays as it is\nexperiment:")
    assert words[2:] == ['--config={"rounds": {"loop": {"note": null}}}', "--rounds.seed=1"]


@pytest.mark.parametrize(("earlier", "current"), sorted(earlier_names.EARLIER_NAMES.items()))
def test_names_of_earlier_versions_lead_to_names_that_exist(earlier, current):
    module, _, name = current.rpartition(".")
    assert getattr(import_module(module), name).__name__ == name
    assert current_names([f"--rounds={earlier}"]) == [f"--rounds={current}"]
