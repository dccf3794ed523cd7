"""`rewardlab fit` under torchrun and SLURM: what one process writes, and what is refused."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rewardlab import InputError
from rewardlab.rewards import load_reward
from rewardlab.training.strategies import check_processes
from rewardlab.training.trainers import SILENT

ROOT = Path(__file__).parents[1]
UNDER_TORCHRUN = ROOT / "configs" / "trainer" / "torchrun.yaml"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
TORCH_VARIABLES = {
    "TORCHELASTIC_RUN_ID": "here",
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
}
SLURM_VARIABLES = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NAME": "fit",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


def trainer(**options):
    return pl.Trainer(accelerator="cpu", **SILENT, **options)


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_a_trainer_for_one_of_two_processes_of_torchrun_is_refused(monkeypatch, strategy):
    """Each would take itself for the only one and write the same files."""
    for name, value in TORCH_VARIABLES.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        InputError, match="torchrun started 2 processes, and the trainer is set to 1"
    ):
        check_processes(trainer(devices=1, strategy=strategy))
    check_processes(trainer(devices=2, strategy="ddp"))


def test_a_trainer_for_fewer_tasks_than_slurm_started_is_refused(monkeypatch):
    for name, value in SLURM_VARIABLES.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"SLURM started 4 .* set to 2 \(2 devices .* srun's"):
        check_processes(trainer(devices=2, strategy="ddp"))
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # a shell inside a job starts what it likes
    check_processes(trainer(devices=1))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a fit of a reward on a few images."""
    toys = runpy.run_path(str(ROOT / "tests" / "test_cli_training.py"))
    toys["write_models"](tmp_path)
    (tmp_path / "fit_toys.py").write_text(toys["TOYS"])
    (tmp_path / "reward.yaml").write_text(toys["OF_REWARD"])
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    return tmp_path


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_fit_under_torchrun_writes_what_one_process_writes_and_one_goes_on(place):
    """The checkpoint after one pass of two processes is gone on from by one."""
    _fit(place, "one", rows=8)
    _fit(place, "two", rows=4, launcher=TORCHRUN)
    assert _files(place / "two") == _files(place / "one")
    assert _figures(place / "two") == pytest.approx(_figures(place / "one"), abs=1e-5)
    last = "checkpoints/last.ckpt"
    _fit(place, "longer", "--trainer.max_epochs=2", rows=8)
    _fit(place, "on_one", "--trainer.max_epochs=2", f"--ckpt_path=two/{last}", rows=8)
    expected = _weights(place / "longer")
    torch.testing.assert_close(_weights(place / "on_one"), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_fit_under_fsdp2_writes_the_reward_and_the_page_that_one_process_writes(place):
    spread = ROOT / "configs" / "trainer" / "fsdp2.yaml"
    flags = ["--trainer.strategy.init_args.data_parallel_size=2", "--trainer.precision=32-true"]
    _fit(place, "one", rows=8)
    _fit(place, "two", *flags, rows=4, launcher=TORCHRUN, config=spread)
    assert _files(place / "two") == _files(place / "one")
    assert _figures(place / "two") == pytest.approx(_figures(place / "one"), abs=1e-5)
    torch.testing.assert_close(_weights(place / "two"), _weights(place / "one"))
    assert sorted((place / "two" / "held-out").iterdir())


@pytest.mark.nightly
def test_torchrun_with_a_trainer_for_one_leaves_nothing(place):
    done = _fit(place, "run", "--trainer.devices=1", rows=4, launcher=TORCHRUN, check=False)
    assert done.returncode != 0
    assert "rewardlab: torchrun started 2 processes, and the trainer is set to 1" in done.stderr
    assert not (place / "run").exists()


def _fit(place, out, *flags, rows, launcher=(), check=True, config=UNDER_TORCHRUN):
    options = ["--config", str(config), "--trainer.accelerator=cpu"] if launcher else []
    if launcher:
        options.append("--trainer.devices=2")
    words = ["fit", "--config", "reward.yaml", *options, "--out", out, *flags]
    words.append(f"--data.init_args.batch_size={rows}")
    command = [sys.executable, "-m", *launcher, "rewardlab", *words]
    return subprocess.run(
        command, cwd=place, check=check, capture_output=True, text=True, timeout=300
    )


def _files(folder):
    """The names of what a run leaves, at its top."""
    return sorted(path.name for path in folder.iterdir())


def _figures(folder):
    """The figures of metrics.csv, by row and column."""
    figures = {}
    with (folder / "metrics.csv").open() as file:
        for number, row in enumerate(csv.DictReader(file)):
            for name, value in row.items():
                if value:
                    figures[number, name] = float(value)
    return figures


def _weights(folder):
    reward = load_reward(folder / "reward")
    return torch.cat([weight.detach().flatten() for weight in reward.parameters()])
