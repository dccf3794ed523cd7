"""`rewardlab sweep` as a user runs it: real runs, a summary, and a command that repeats one."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rewardlab import cli
from rewardlab.commands.rounds import build
from rewardlab.commands.sweep import how_of, parse
from rewardlab.errors import InputError
from rewardlab.rounds.rehearsal import Line
from rewardlab.sweeps import SweepFolder, read_sweep

ROOT = Path(__file__).parents[1]
TOYS = """
from collections.abc import Callable

import torch
from torch import nn

from rewardlab.rounds.base import Rounds


class Coin:
    def __init__(self, bias: float = 0.0, seed: int | None = None):
        self.bias, self.seed = bias, seed


class Die(Coin):
    def __init__(self, bias: float = 0.0, sides: int = 6, seed: int | None = None):
        super().__init__(bias, seed)
        self.sides = sides


class Game(Rounds):
    def __init__(self, coin: Coin, scale: float = 1.0, seed: int = 0):
        if scale < 0:
            from rewardlab.errors import InputError
            raise InputError(f"scale is 0 or more; got {scale:g}.")
        self.coin, self.scale, self.seed = coin, scale, seed

    def run(self, run):
        noise = torch.rand([], generator=torch.Generator().manual_seed(self.seed)).item()
        run.results({"rounds": {"1": {"gold": self.scale + noise + self.coin.bias}}})
"""
RUN = """
experiment: {seed: 0}
rounds:
  class_path: sweep_toys.Game
  init_args:
    coin: {class_path: sweep_toys.Coin, init_args: {seed: "${experiment.seed}"}}
    seed: ${experiment.seed}
"""
SWEEP = """
config: run.yaml
grid: {rounds.init_args.scale: [1, 3]}
figure: rounds.last.gold
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "sweep_toys.py").write_text(TOYS)
    (tmp_path / "run.yaml").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("sweep_toys", None)
    return tmp_path


def sweep(text, *flags):
    Path("sweep.yaml").write_text(text)
    return cli.main(["sweep", "sweep.yaml", *flags])


def test_a_sweep_as_a_process_and_its_best_point_by_hand(place):
    text = SWEEP.replace("[1, 3]", "[3]")
    Path("sweep.yaml").write_text(text)
    words = [sys.executable, "-m", "rewardlab", "sweep", "sweep.yaml", "--jobs=2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, best, command, page = done.stdout.splitlines()
    assert best.startswith("Best of 1: scale=3, 3.")
    assert Path(page).read_text().startswith("<!DOCTYPE html>")
    rows = list(csv.DictReader(Path("runs/sweep/summary.csv").read_text().splitlines()))
    assert [row["finished"] for row in rows] == ["1"]
    assert command == rows[0]["command"]
    program, *again = shlex.split(command)
    assert (program, cli.main(again)) == ("rewardlab", 0)
    by_hand = Path(again[-1].removeprefix("--out=")) / "results.json"
    [in_sweep] = Path("runs/sweep/runs").glob("scale-3-*/seed-0/results.json")
    assert by_hand.read_bytes() == in_sweep.read_bytes()
    assert yaml.safe_load(Path("runs/sweep/sweep.yaml").read_text()) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (SWEEP.replace(".scale", ".scael"), "has no key 'scael'"),
        (SWEEP.replace("[1, 3]", "[1, -3]"), "point scale=-3, seed 0: scale is 0 or more"),
        (SWEEP.replace("[1, 3]", "[1, three]"), "scale=three"),
        (SWEEP.replace("run.yaml", "[run.yaml, none.yaml]"), "none.yaml"),
        (SWEEP + "set: {rounds.init_args.seed: 7, rounds.init_args.coin.init_args.seed: 7}\n"
         "seeds: [0, 1]", "is the same with seed 0 and seed 1"),
        (SWEEP.replace("[1, 3]", "[2, 3]") + "set: {rounds.init_args.coin.init_args.seed: null}",
         "rounds.coin is a sweep_toys.Coin, which takes a seed"),
        (SWEEP.replace("[1, 3]}", "[1]}") + "points: [{config: run.yaml}, {config: null}]",
         "come to the same config"),
    ],
)  # fmt: skip
def test_every_point_is_built_before_the_first_runs(place, capsys, text, sentence):
    assert sweep(text) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_class_that_a_point_replaces_keeps_its_references(place):
    Path("sweep.yaml").write_text(
        SWEEP.replace("rounds.init_args.scale: [1, 3]", "rounds.init_args.coin: [sweep_toys.Die]")
        + "seeds: [4]"
    )
    found = read_sweep(Path("sweep.yaml"))
    _, *words = found.words(found.points[0])
    coin = build([*words, "--out=nowhere"]).rounds.coin
    assert (type(coin).__name__, coin.seed, coin.sides) == ("Die", 4, 6)


def test_a_config_that_was_changed_under_a_sweep_is_refused(place, capsys):
    Path("sweep.yaml").write_text(SWEEP.replace("[1, 3]", "[1]"))
    found = read_sweep(Path("sweep.yaml"))
    _, *words = found.words(found.points[0])
    out = Path("runs/sweep/runs") / found.points[0].run
    assert cli.main(["rounds", *words, f"--out={out}", "--report=false"]) == 0
    Path("runs/sweep/sweep.yaml").write_text(found.text)
    Path("run.yaml").write_text(RUN + "    scale: 2\n    coin: {init_args: {bias: 1.0}}\n")
    Path("run.yaml").write_text(RUN.replace('experiment.seed}"}', 'experiment.seed}", bias: 1}'))
    capsys.readouterr()
    assert cli.main(["sweep", "sweep.yaml", "--resume"]) == 2
    assert "belongs to another config" in capsys.readouterr().err
    assert cli.main(["sweep", "sweep.yaml"]) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


SEARCH = """
config: run.yaml
search: {count: 4, batch: 2, of: {rounds.init_args.scale: {low: 1, high: 3}}}
figure: rounds.last.gold
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (SEARCH.replace(".scale", ".scael"), "has no key 'scael'"),
        (SEARCH.replace("low: 1", "low: -1"), "point scale=-1.0, seed 0: scale is 0 or more"),
        (SEARCH + "seeds: [0, 1]\nset: {rounds.init_args.seed: 7, "
         "rounds.init_args.coin.init_args.seed: 7}", "is the same with seed 0 and seed 1"),
        (SEARCH + "launcher: slurm", "there is no srun on this machine"),
    ],
)  # fmt: skip
def test_the_ends_of_a_search_are_built_before_the_first_runs(place, capsys, text, sentence):
    assert sweep(text) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_dry_run_rehearses_every_point_and_writes_nothing(place, capsys, monkeypatch):
    rehearsed = []

    def rehearse(rounds, folder):
        rehearsed.append((rounds.scale, rounds.seed))
        if rounds.scale > 2:
            raise InputError("pictures of 8 pixels do not fit.")
        return [Line("policy", "2 weights")]

    monkeypatch.setattr("rewardlab.commands.rehearsal.rehearse_rounds", rehearse)
    before = sorted(place.iterdir())
    text = SWEEP + "seeds: [5, 6]\n"
    assert sweep(text.replace("[1, 3]", "[1, 2]"), "--dry-run") == 0
    assert rehearsed == [(1.0, 5), (2.0, 5)]
    said = capsys.readouterr().out
    assert "scale=2\npolicy  2 weights\nNothing was written." in said
    assert sweep(text, "--dry-run") == 2
    assert "The sweep's point scale=3: pictures of 8 pixels" in capsys.readouterr().err
    assert sweep(SEARCH, "--dry-run") == 2  # the ends of its range
    assert rehearsed[4:] == [(1.0, 0), (3.0, 0)]
    assert set(place.iterdir()) - set(before) <= {place / "sweep.yaml", place / "__pycache__"}


def test_runs_at_once_share_the_processors_unless_told_otherwise(place, monkeypatch, capsys):
    Path("sweep.yaml").write_text(SWEEP)
    found = read_sweep(Path("sweep.yaml"))
    folder = SweepFolder(Path("out"))
    flags = parse(["sweep.yaml", "--jobs=2"])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert how_of(flags, found, folder).environment == {}
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.cpu_count", lambda: 9)
    assert how_of(flags, found, folder).environment == {"OMP_NUM_THREADS": "4"}
    assert capsys.readouterr().out == "Each run gets OMP_NUM_THREADS=4, as 2 run at once.\n"
    assert how_of(parse(["sweep.yaml"]), found, folder).environment == {}


@pytest.mark.parametrize("flags", [["--jobs=0"], ["--retries=-1"], ["--jbos=2"], []])
def test_flags_that_are_wrong_are_refused(place, capsys, flags):
    assert cli.main(["sweep", *(["sweep.yaml", *flags] if flags else [])]) == 2
    assert capsys.readouterr().err.startswith("rewardlab: ")


@pytest.mark.parametrize("file", sorted(Path(ROOT, "configs", "sweeps").glob("*.yaml")))
def test_shipped_sweeps_name_configs_that_are_there(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = read_sweep(file)
    assert len(found.points) >= 12 or found.search.count >= 12
    assert all(Path(config).is_file() for config in found.configs)
