"""The guard's study: its command lines, its table, and what it reads of a run."""

import importlib.util
import sys
from pathlib import Path

import pytest

from rewardlab.commands.parsing import make_parser, parse, prepare, resolved
from rewardlab.embedded import topic_monitors
from rewardlab.rounds.base import Rounds
from rewardlab.types import Samples

STUDIES = Path(__file__).parents[2] / "experiments" / "studies"


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        spec = importlib.util.spec_from_file_location("guard_study", STUDIES / "guard.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "guard_study", module)
        spec.loader.exec_module(module)
        yield module


def run_of(arm, seed, gold, kl, disagreement, **more):
    """Return a run's readings every ten steps, all errors 0.1."""
    rows = []
    for number, values in enumerate(zip(gold, kl, disagreement, strict=True)):
        row = {"arm": arm, "seed": seed, "step": 10.0 * number}
        names = ("reading/gold", "reading/kl", "guard/disagreement")
        row |= dict(zip(names, values, strict=True))
        rows.append(row | {"guard_error/disagreement": 0.1, **more})
    return rows


FALLS = run_of("text", 0, [0, 0.5, 0.4, -1, -2], [0, 3, 6, 8, 9], [1, 1, 1.1, 2, 2])
HOLDS = run_of("text-kl0.25", 0, [0, 0.1, 0.3, 0.4, 0.5], [0, 1, 1, 2, 3], [1, 1, 1, 1, 1])
CONSTANT = {"reading/held_out": 0.0, "reading_error/held_out": 0.1}
CONSTANT |= {"reading/familiarity": 0.0, "reading_error/familiarity": 0.1}
CONSTANT |= {"reading/mop": 0.0, "reading_error/mop": 0.0}


def test_fall_and_peak_are_of_gold_in_its_window(study):
    assert study.fall(FALLS, study.TEXT) == 30  # (0.4 - 1)/2 is below 0 - 0.07
    assert study.peak(FALLS, study.TEXT) == 20
    assert study.fall(HOLDS, study.TEXT) is None


def test_an_outcome_takes_the_monitors_own_rule(study):
    monitors = study.TEXT.monitors
    level = study.outcome(FALLS, study.TEXT, monitors["KL, nats"], 5.0)
    assert level == (30, 30, 20)
    tolerance = study.outcome(FALLS, study.TEXT, monitors["disagreement"], 3.0)
    assert tolerance == (40, 30, 20)
    falling = [
        row | {"reading/familiarity": -row["step"], "reading_error/familiarity": 1.0}
        for row in FALLS
    ]
    assert study.outcome(falling, study.TEXT, monitors["distance"], 3.0).alarm == 20


def test_the_table_counts_delays_and_false_alarms(study):
    rows = [row | CONSTANT for row in (*FALLS, *HOLDS)]
    lines = study.table(rows).splitlines()
    assert "| text | KL, nats | 5 | 1 | +0 [+0, +0] | 0 | 0 | 1 | 0 |" in lines
    assert "| text | KL, nats | 2 | 1 | -10 [-10, -10] | 0 | 0 | 1 | 0 |" in lines
    assert "| text | KL, nats | 20 | 1 | – | 1 | 0 | 1 | 0 |" in lines
    assert "| text | disagreement | 3 s.e. | 1 | +10 [+10, +10] | 0 | 0 | 1 | 0 |" in lines
    assert "| text | 0 | 40 | 20 | 30 |" in study.falls_table(rows)
    assert "| text-kl0.25 | 0 | 40 | 40 | – |" in study.falls_table(rows)


def test_readings_of_two_worlds_stand_in_one_table(study, tmp_path):
    other = [{"arm": "digits-beta100", "seed": 0, "step": 0.0, "reading/accuracy": 1.0}]
    study.write(tmp_path, [*(row | CONSTANT for row in FALLS)])
    first = (tmp_path / "readings.csv").read_text().splitlines()
    assert len(first) == 6
    assert study.by_run([*FALLS, *other])[1] == other


def tree_of(words):
    """Return the config of a command line; nothing is made."""
    parser = make_parser()
    prepare(parser)
    parser.add_argument("--stages", type=str, default=None)
    parser.add_subclass_arguments(Rounds, "rounds", required=True)
    return resolved(parser, parse(parser, words))


@pytest.mark.parametrize("arm", ["text-kl0.25", "digits-beta100"])
def test_an_arm_is_a_config_of_the_rounds(study, tmp_path, arm):
    settings = tree_of(study.command(arm, 3, tmp_path)[1:])["rounds"]["init_args"]
    assert settings["seed"] == 3
    arguments = settings["post_train"]["loop"]["init_args"]
    guard, reading = settings["post_train"]["callbacks"]
    assert guard["init_args"]["stop"] is False
    judges = reading["init_args"]["judges"]
    if arm == "digits-beta100":
        assert (arguments["beta"], list(judges)) == (100, ["accuracy"])
        assert "classifier" in guard["init_args"]["watch"]
        return
    assert (arguments["kl_weight"], settings["rounds"]) == (0.25, 0)
    assert settings["use"] == "ensemble"
    assert list(judges) == ["gold", "held_out", "familiarity", "mop"]


def test_the_monitors_of_texts_are_low_for_what_the_base_never_says(tmp_path, monkeypatch):
    """Of a base policy of one step; the member is fitted on other pairs than the default ones."""
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path))
    said = topic_monitors.base_outputs(60, seed=5, train_steps=1)
    odd = Samples(said.prompts, ["the the the the the the"] * 60)
    familiarity = topic_monitors.familiarity(200, train_steps=1)
    assert familiarity(odd).mean() < familiarity(said).mean() - 1
    outliers = topic_monitors.outliers(220, train_steps=1)
    assert -outliers(said).mean() < 0.1
    assert -outliers(odd).mean() > 0.5
    member = topic_monitors.held_out_member(pairs=16, train_steps=1)
    assert member(said).shape == (60,)
