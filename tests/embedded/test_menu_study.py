"""The menu's study: its arms, its table, and what it reads of a run; its runs take hours."""

import importlib.util
import sys
from pathlib import Path

import pytest

from rewardlab.commands.rounds import build

STUDIES = Path(__file__).parents[2] / "experiments" / "studies"


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        spec = importlib.util.spec_from_file_location("menu_study", STUDIES / "menu.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "menu_study", module)
        spec.loader.exec_module(module)
        yield module
    sys.modules.pop("hardening", None)


def row(study, arm, seed, fall, **figures):
    values = dict.fromkeys(study.Row._fields, 1.0) | {"arm": arm, "seed": seed, "fall": fall}
    return study.Row(**(values | figures))


def test_the_table_pairs_each_arm_with_the_plain_one_of_its_seed(study):
    rows = [row(study, "none", seed, 100.0, seconds=10.0) for seed in (2, 3)]
    rows += [row(study, "online", 2, None, seconds=15.0, at_10=None)]
    rows += [row(study, "online", 3, 200.0, seconds=11.0, at_10=None)]
    none, online = study.table(rows).splitlines()[2:]
    assert none.startswith("| none | 2 | 2 of 2 | 100 | 1.00 [1.00, 1.00] |")
    assert online.startswith("| online | 2 | 1 of 2 | 360 | 3.60 [2.00, 5.20] |")
    assert "| not reached |" in online
    assert online.endswith("| 1.00 | 1.30 |")


def test_all_files_of_all_arms_stand(study):
    for arm in study.ARMS.values():
        assert all((study.CONFIGS / file).is_file() for file in arm.files)
    names = {path.stem for path in (study.CONFIGS / "menu").glob("*.yaml")}
    assert names > set(study.ITEMS)
    assert set(study.MAIN) <= set(study.ARMS)


@pytest.mark.parametrize("arm", ["kl0.25", "online-frozen"])
def test_an_arm_lays_its_files_and_flags_over_the_base(study, tmp_path, arm):
    words = [word for word in study.command(arm, 3, tmp_path)[1:] if word != "--resume"]
    settings = build(words).config["rounds"]["init_args"]
    assert settings["post_train"]["trainer"]["init_args"]["max_steps"] == study.HORIZON
    assert (settings["rounds"], settings["use"], settings["seed"]) == (0, "ensemble", 3)
    if arm == "kl0.25":
        assert settings["post_train"]["loop"]["init_args"]["kl_weight"] == 0.25
        return
    optimizer = settings["online"]["online"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["lr"] == 0


def test_a_restart_climbs_the_reward_of_the_same_seed(study, tmp_path):
    words = study.command("restart", 4, tmp_path)
    assert f"--experiment.reward_path={tmp_path / 'online-4' / 'reward'}" in words


def test_runs_of_an_earlier_sitting_count_and_are_not_made_again(study, tmp_path):
    rows = [row(study, "none", seed, 100.0) for seed in (2, 3)]
    curve = study.Curve([0.0, 0.5, -1.0], [0.0, 1.0, 4.0])
    measured = [study.Measured(entry, curve) for entry in [*rows, row(study, "none", 4, None)]]
    study.write(tmp_path, measured)
    known = study.known_runs(tmp_path / "runs.csv")
    assert known == measured
    done = {(entry.row.arm, entry.row.seed) for entry in known}
    assert not list(study.made(["none"], [2, 3, 4], tmp_path, None, done=done))
    assert study.known_runs(None) == []
