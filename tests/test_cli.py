"""The command line: pages, exit codes, overrides of interpolated keys, misspelt keys, factories in
YAML, run folders.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time

import pytest
import yaml

from rewardlab import cli
from rewardlab.commands import PAGES, doctor

TOYS = """
from __future__ import annotations
from collections.abc import Callable
from pathlib import Path
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import nn
from rewardlab.errors import InputError
from rewardlab.rounds.base import Rounds

class Policy(nn.Module):
    def __init__(self, path: str | None = None):
        super().__init__()
        self.path = path

class Reward(nn.Module):
    def __init__(self, dim: int = 2):
        super().__init__()
        if dim < 0:
            raise InputError(f"Reward takes a dim of at least 0; got {dim}.")
        self.dim = dim

class Mean(Reward):
    def __init__(self, members: list[Reward], weight: float = 1.0):
        super().__init__()
        self.weight = weight

class Tuning(LightningModule):
    def __init__(self, policy: Policy, reward: Reward, beta: float = 1.0, lr: float = 0.1):
        super().__init__()
        self.policy, self.reward, self.beta, self.lr = policy, reward, beta, lr

def tuning(policy: Policy, reward: Reward, beta: float = 2.0) -> LightningModule:
    return Tuning(policy, reward, beta)

class Game(Rounds):
    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        post_train: Callable[[Policy, Reward], LightningModule],
        trainer: Callable[[], Trainer],
        seed: int = 0,
        others: dict[str, Callable[[Policy, Reward], LightningModule]] | None = None,
    ):
        self.policy, self.reward, self.post_train, self.trainer = policy, reward, post_train, trainer
        self.seed, self.others = seed, others

    def run(self, run):
        first, second = (self.post_train(self.policy, self.reward) for _ in range(2))
        trainer = self.trainer()
        assert first is not second and trainer is not self.trainer()
        assert first.policy is self.policy and first.reward is self.reward
        run.results({"beta": first.beta, "lr": first.lr, "steps": trainer.max_steps})
        run.results({"path": self.policy.path, "seed": self.seed})
        run.results({"others": {name: make(self.policy, self.reward).beta for name, make in (self.others or {}).items()}})

class Broken(Game):
    def run(self, run):
        raise RuntimeError("a bug of ours")

class Interrupted(Game):
    def run(self, run):
        raise KeyboardInterrupt

class Line(LightningModule):
    def __init__(self, lr: float = 0.1, note: str | None = None):
        super().__init__()
        self.save_hyperparameters()
        self.layer, self.lr, self.note = nn.Linear(1, 1), lr, note

    def training_step(self, batch, _):
        if self.global_step == 2 and not Path("power").exists():
            raise RuntimeError("the power went")
        loss = (self.layer(batch) - 1).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", (self.layer(batch) - 1).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)

class Points(LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(4.0)[:, None], batch_size=2)

    val_dataloader = train_dataloader
"""

ROUNDS = """
experiment: {policy_path: base/policy, seed: 3}
rounds:
  class_path: cli_toys.Game
  init_args:
    seed: ${experiment.seed}
    policy: {class_path: cli_toys.Policy, init_args: {path: "${experiment.policy_path}"}}
    reward: {class_path: cli_toys.Mean, init_args: {members: [{class_path: cli_toys.Reward, init_args: {dim: 7}}]}}
    post_train: {class_path: cli_toys.Tuning, init_args: {lr: 0.5}}
    trainer:
      class_path: pytorch_lightning.Trainer
      init_args: {max_steps: 5, logger: false, enable_checkpointing: false, accelerator: cpu}
"""

FIT = """
experiment: {reward_path: some/reward}
model: {class_path: cli_toys.Line, init_args: {note: "${experiment.reward_path}"}}
data: {class_path: cli_toys.Points}
trainer: {max_steps: 3, log_every_n_steps: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory with the toys and two configs."""
    (tmp_path / "cli_toys.py").write_text(TOYS)
    (tmp_path / "power").touch()
    (tmp_path / "rounds.yaml").write_text(ROUNDS)
    (tmp_path / "fit.yaml").write_text(FIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("cli_toys", None)
    return tmp_path


def figures(run):
    return yaml.safe_load((run / "results.json").read_text())


@pytest.mark.parametrize("command", sorted(set(PAGES) - {"rewardlab"}))
def test_help_is_a_short_page_within_two_seconds(command):
    """About 0.1 s on an idle machine; 2 s is the promise, and fails only if torch or Lightning is
    imported.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rewardlab", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.perf_counter() - start < 2
    assert done.stdout.startswith(f"rewardlab {command}")
    assert done.stdout.count(f"\n  rewardlab {command}") >= 2, "a usage line and examples"
    assert len(done.stdout.splitlines()) < 25


def test_neither_the_package_nor_its_help_imports_torch_or_lightning():
    code = "import sys, rewardlab; from rewardlab.cli import main; main(['fit', '--help']); main([]); print(*sys.modules)"
    loaded = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        .stdout.splitlines()[-1]
        .split()
    )
    assert "rewardlab" in loaded
    assert not {"torch", "pytorch_lightning", "jsonargparse", "numpy"} & set(loaded)


def test_every_command_has_a_page_and_a_home():
    assert set(PAGES) == set(cli._HOMES) | {"rewardlab"}


def test_rounds_build_from_factories_and_take_overrides(place):
    assert cli.main(["rounds", "--config", "rounds.yaml", "--out", "a"]) == 0
    assert figures(place / "a") == {
        "beta": 1.0,
        "lr": 0.5,
        "path": "base/policy",
        "steps": 5,
        "seed": 3,
        "others": {},
    }
    words = [
        "rounds",
        "--config",
        "rounds.yaml",
        "--out=b",
        "--experiment.policy_path=other",
        "--experiment.seed=9",
    ]
    words += [
        "--rounds.init_args.post_train.init_args.beta=9",
        "--rounds.init_args.trainer.init_args.max_steps=8",
    ]
    assert cli.main(words) == 0
    assert figures(place / "b") == {
        "beta": 9.0,
        "lr": 0.5,
        "path": "other",
        "steps": 8,
        "seed": 9,
        "others": {},
    }


@pytest.mark.parametrize(
    "flag", [["--rounds.init_args.policy.init_args.path=null"], ["--rounds.policy.path", "~"]]
)
def test_null_by_a_flag_is_none_also_below_a_class(place, flag):
    words = ["rounds", "--config", "rounds.yaml", "--out=a", *flag]
    assert cli.main([*words, "--rounds.init_args.trainer.max_steps=7"]) == 0
    assert figures(place / "a") == {
        "beta": 1.0,
        "lr": 0.5,
        "path": None,
        "steps": 7,
        "seed": 3,
        "others": {},
    }


def test_a_path_that_no_config_takes_is_refused(place, capsys):
    words = [
        "rounds",
        "--config",
        "rounds.yaml",
        "--out=a",
        "--experiment.prompts_path",
        "prompts.txt",
    ]
    assert cli.main(words) == 2
    assert "none has ${experiment.prompts_path}" in capsys.readouterr().err
    assert not (place / "a").exists()
    (place / "more.yaml").write_text(
        'rounds: {init_args: {policy: {init_args: {path: "${experiment.reward_path}"}}}}'
    )
    assert cli.main([*words[:4], "--config=more.yaml", "--experiment.reward_path=x"]) == 0
    assert figures(place / "a")["path"] == "x"


def test_a_second_config_overrides_the_first_also_where_it_is_interpolated(place):
    (place / "more.yaml").write_text("experiment: {seed: 11}\n")
    assert cli.main(["rounds", "--config", "rounds.yaml", "--config", "more.yaml"]) == 0
    assert figures(place / "runs" / "more")["seed"] == 11
    assert figures(place / "runs" / "more")["path"] == "base/policy"


def test_a_function_and_a_mapping_of_factories_work_too(place):
    config = yaml.safe_load(ROUNDS)
    config["rounds"]["init_args"]["post_train"] = "cli_toys.tuning"
    config["rounds"]["init_args"]["others"] = {
        "low": {"class_path": "cli_toys.Tuning", "init_args": {"beta": 50}}
    }
    (place / "rounds.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["rounds", "--config", "rounds.yaml", "--out", "a"]) == 0
    assert figures(place / "a")["beta"] == 2.0
    assert figures(place / "a")["others"] == {"low": 50.0}


def test_the_saved_config_is_resolved_and_gives_the_same_run(place):
    cli.main(["rounds", "--config", "rounds.yaml", "--out", "a", "--experiment.seed=9"])
    assert "${" not in (place / "a" / "config.yaml").read_text()
    assert cli.main(["rounds", "--config", "a/config.yaml", "--out", "b"]) == 0
    assert figures(place / "b") == figures(place / "a")
    assert (place / "b" / "config.yaml").read_text() == (place / "a" / "config.yaml").read_text()


def test_a_run_is_never_overwritten(place, capsys):
    words = ["rounds", "--config", "rounds.yaml", "--out", "a"]
    assert cli.main(words) == 0
    assert cli.main(words) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert cli.main([*words, "--resume"]) == 0
    assert cli.main([*words, "--resume", "--experiment.seed=4"]) == 2
    assert "experiment.seed is 3 there and 4 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--rounds.init_args.reward.init_args.wieght=3"],
            "rounds.reward: cli_toys.Mean has no key 'wieght'; did you mean 'weight'?",
        ),
        (
            ["--rounds.init_args.post_train.init_args.bta=3"],
            "rounds.post_train: cli_toys.Tuning has no key 'bta'; did you mean 'beta'?",
        ),
        (
            ["--rounds.init_args.trainer.init_args.max_step=3"],
            "Trainer has no key 'max_step'; did you mean 'max_steps'?",
        ),
        (
            ["--rounds.init_args.sead=3"],
            "rounds: cli_toys.Game has no key 'sead'; did you mean 'seed'?",
        ),
        (
            ["--experiment.sed=3"],
            "There is no flag --experiment.sed; did you mean '--experiment.seed'?",
        ),
        (["--rounds.init_args.seed=x"], "rounds.seed: cli_toys.Game: expected int, got x"),
        (
            ["--rounds=cli_toys.Gme"],
            "module 'cli_toys' has no attribute 'Gme'; did you mean 'Game'?",
        ),
        (["--config", "absent.yaml"], "The config 'absent.yaml' cannot be read"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(place, capsys, flags, sentence):
    assert cli.main(["rounds", "--config", "rounds.yaml", *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            "dim: 7",
            "dmi: 7",
            "rounds.reward.members: cli_toys.Reward has no key 'dmi'; did you mean 'dim'?",
        ),
        (
            "lr: 0.5",
            "rl: 0.5",
            "rounds.post_train: cli_toys.Tuning has no key 'rl'; did you mean 'lr'?",
        ),
        ("lr: 0.5", "lr: fast", "rounds.post_train.lr: cli_toys.Tuning: expected float, got fast"),
        (
            "{policy_path:",
            "{polcy_path:",
            "experiment has no key 'polcy_path'; did you mean 'policy_path'?",
        ),
        ("\nrounds:", "\nrouns:", "The config has no key 'rouns'; did you mean 'rounds'?"),
        ("experiment.seed}", "experiment.sed}", "leads nowhere: Interpolation key"),
        ("{dim: 7}", "{dim: -1}", "Reward takes a dim of at least 0; got -1."),
        ("{policy_path:", "{{policy_path:", "The config 'rounds.yaml' is not YAML"),
    ],
)
def test_a_mistake_in_a_config_is_one_sentence(place, capsys, before, after, sentence):
    assert before in ROUNDS
    (place / "rounds.yaml").write_text(ROUNDS.replace(before, after))
    assert cli.main(["rounds", "--config", "rounds.yaml"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (place / "runs").exists()


def test_exit_codes(place, capsys):
    (place / "broken.yaml").write_text(ROUNDS.replace("Game", "Broken"))
    assert cli.main(["rounds", "--config", "broken.yaml"]) == 1
    assert "RuntimeError: a bug of ours" in capsys.readouterr().err
    (place / "interrupted.yaml").write_text(ROUNDS.replace("Game", "Interrupted"))
    assert cli.main(["rounds", "--config", "interrupted.yaml"]) == 130
    assert cli.main(["fti"]) == 2
    assert "did you mean 'fit'?" in capsys.readouterr().err.lower()
    assert cli.main(["report", "nowhere"]) == 2
    assert "nowhere is not a run folder" in capsys.readouterr().err
    assert cli.main(["rounds"]) == 2
    assert cli.main(["rounds", "--help-all"]) == 0
    assert "--experiment.policy_path" in capsys.readouterr().out


def test_fit_writes_a_run_folder_and_an_override_reaches_the_model(place, capsys):
    words = ["fit", "--config", "fit.yaml", "--out", "run", "--experiment.reward_path=other"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines()[0] == "run"
    saved = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["note"] == "other"
    assert saved["trainer"]["max_steps"] == 3
    assert {"config.yaml", "run.json", "metrics.csv", "checkpoints"} <= {
        item.name for item in (place / "run").iterdir()
    }
    assert (place / "run" / "checkpoints" / "last.ckpt").exists()
    assert not (place / "lightning_logs").exists()
    assert cli.main(words) == 2
    assert cli.main([*words, "--model.note=new", "--resume"]) == 2
    assert "model.init_args.note is other there and new here" in capsys.readouterr().err


def test_fit_resumes_from_the_newest_checkpoint(place):
    words = ["fit", "--config", "fit.yaml", "--out"]
    (place / "power").unlink()
    assert cli.main([*words, "run"]) == 1
    (place / "power").touch()
    assert cli.main([*words, "run", "--resume"]) == 0
    assert cli.main([*words, "whole"]) == 0
    resumed, whole = (
        list(csv.DictReader((place / run / "metrics.csv").read_text().splitlines()))
        for run in ("run", "whole")
    )
    assert [row["step"] for row in resumed if row["loss"]] == ["0", "1", "2"], (
        "no step is trained twice"
    )
    assert resumed == whole


def test_equal_seeds_fit_equal_weights(place):
    import torch

    def weights(*words):
        assert cli.main(["fit", "--config", "fit.yaml", *words]) == 0
        state = torch.load(f"{words[1]}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([tensor.flatten() for tensor in state.values()])

    first = weights("--out", "a", "--experiment.seed=1")
    assert first.equal(weights("--out", "b", "--experiment.seed=1"))
    assert not first.equal(weights("--out", "c", "--experiment.seed=2"))


def test_validate_without_out_writes_nothing(place):
    before = {item.name for item in place.iterdir()}
    assert cli.main(["validate", "--config", "fit.yaml"]) == 0
    assert {item.name for item in place.iterdir()} - before <= {"__pycache__"}


def test_doctor_finds_what_is_broken_and_names_the_mend(capsys, monkeypatch):
    monkeypatch.setattr(
        doctor, "CORE", {"torch": "torch", "torchvision": "torchvision.ops", "pillow": "PIL"}
    )
    assert cli.main(["doctor"]) == 0
    assert "All that rewardlab needs is here." in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CORE", {"torch": "torch.no_such_module", "no-such-package": "x"})
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "Broken: torch, no-such-package." in printed
    assert "pip install --upgrade 'no-such-package'" in printed


def test_output_that_nobody_reads_ends_the_command_without_a_traceback():
    """As behind `| head`: about 0.2 s, since a page needs no torch."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "rewardlab", "score", "--help"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_a_broken_pipe_to_somebody_else_is_a_bug_with_its_traceback(monkeypatch, capsys):
    def broken(argv):
        raise BrokenPipeError("a socket")

    monkeypatch.setattr(cli, "_dispatch", broken)
    assert cli.main(["score"]) == 1
    assert "a socket" in capsys.readouterr().err
