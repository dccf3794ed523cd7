"""What training leaves for the other commands, what ends it in good order, and what is refused
before it begins.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from rewardlab import DiffusionPolicy, Sampler, VisionReward, cli
from rewardlab.data import save_samples
from rewardlab.policies.folders import load_policy
from rewardlab.rewards import load_reward
from rewardlab.testing import tiny_diffusion, tiny_tower
from rewardlab.types import Samples

TOYS = """
from __future__ import annotations
import os, signal
import torch
from pytorch_lightning import LightningModule, Trainer
from rewardlab.policies import Policy
from rewardlab.policies.folders import load_policy
from rewardlab.rewards import Reward, load_reward
from rewardlab.rounds.base import Rounds
from rewardlab.training import SFT

def policy(path: str) -> Policy:
    return load_policy(path)

def reward(path: str) -> Reward:
    return load_reward(path)

class Pressed(SFT):
    '''Ctrl-C in the first step.'''
    def training_step(self, samples, batch_idx):
        os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(samples, batch_idx)

class Ended(SFT):
    '''A signal in the second step of the process that is asked for it.'''
    def training_step(self, samples, batch_idx):
        number = os.environ.get("SIGNAL")
        if number and self.global_step == 1:
            os.kill(os.getpid(), int(number))
        return super().training_step(samples, batch_idx)

class Tested(SFT):
    def test_step(self, samples, batch_idx):
        self.log("test/loss", self._loss(samples).loss)

class Bare(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGINT)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())

class Fits(Rounds):
    '''A stage that is a Lightning fit.'''
    def run(self, run):
        quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
        Trainer(accelerator="cpu", max_steps=1, **quiet).fit(Bare(), torch.utils.data.DataLoader([1, 2]))
"""
FIT = """
model: {class_path: rewardlab.training.SFT, init_args: {policy: {class_path: fit_toys.policy, init_args: {path: policy}}}}
data: {class_path: rewardlab.data.SamplesData, init_args: {samples: samples, channels: 1, batch_size: 2}}
trainer: {max_steps: 3, log_every_n_steps: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""
OF_REWARD = """
model: {class_path: rewardlab.training.GANRM, init_args: {reward: {class_path: fit_toys.reward, init_args: {path: reward}}}}
data: {class_path: rewardlab.data.TargetSamples, init_args: {targets: samples, negatives: others, held_out: 4, channels: 1}}
trainer: {max_epochs: 1, log_every_n_steps: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    write_models(place)
    return place


def write_models(place):
    """A policy, a reward and two folders of samples."""
    DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2)).save_pretrained(
        place / "policy"
    )
    VisionReward(tiny_tower(image_size=8), heads=2, width=8).save_pretrained(place / "reward")
    generator = torch.Generator().manual_seed(0)
    for name, level in (("samples", 0.5), ("others", 0.0)):
        save_samples(
            place / name,
            Samples([""] * 12, level + 0.5 * torch.rand(12, 1, 8, 8, generator=generator)),
        )


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    """An empty working directory with toys, models, samples and configs; what Lightning does to
    Ctrl-C is undone.
    """
    for folder in models.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "fit_toys.py").write_text(TOYS)
    (tmp_path / "fit.yaml").write_text(FIT)
    (tmp_path / "reward.yaml").write_text(OF_REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("fit_toys", None)
    before = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def heard(monkeypatch, caplog):
    """What rewardlab's log says, whatever handlers earlier tests have left."""
    monkeypatch.setattr(logging.getLogger("rewardlab"), "handlers", [caplog.handler])
    return caplog


def weights(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def test_a_fit_of_a_policy_leaves_it_where_other_commands_take_it(place, capsys):
    words = ["fit", "--config", "fit.yaml", "--out", "run"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].endswith("run/policy")
    assert lines[-1].endswith("run/report.html")
    assert (place / "run" / "report.html").is_file()
    trained = load_policy("run/policy")
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(state[f"policy.{name}"].equal(weight) for name, weight in trained.named_parameters())
    assert not weights(trained).equal(weights(load_policy("policy")))
    assert not (place / "run" / "reward").exists()
    assert cli.main([*words, "--resume"]) == 0, "what was written is written anew"


def test_a_fit_of_a_reward_leaves_it_and_the_report_shows_its_curves(place, capsys):
    assert cli.main(["fit", "--config", "reward.yaml", "--out", "run"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].endswith("run/reward")
    trained = load_reward("run/reward")
    assert trained.meaning.startswith("log density ratio")
    assert not weights(trained).equal(weights(load_reward("reward")))
    assert cli.main(["report", "run"]) == 0
    page = (place / "run" / "report.html").read_text()
    assert "is a run of <code>rewardlab fit</code>: it trained by <code>GANRM</code>" in page
    assert "At its end: val/" in page
    assert "Highest and lowest scores on held-out data" in page
    assert "No round has finished" not in page
    assert "Logged once, so there is no curve" in page
    assert "val/auc" in page


def test_a_page_that_fails_does_not_fail_the_run_and_can_be_left_out(
    place, capsys, heard, monkeypatch
):
    words = ["fit", "--config", "fit.yaml", "--trainer.max_epochs=1"]
    assert cli.main([*words, "--out", "without", "--report=false"]) == 0
    assert not (place / "without" / "report.html").exists()
    monkeypatch.setattr("rewardlab.report.page.read_runs", lambda runs: 1 / 0)
    assert cli.main([*words, "--out", "run"]) == 0
    assert "division by zero" in heard.text
    assert "rewardlab report run" in heard.text
    facts = json.loads((place / "run" / "run.json").read_text())
    assert facts["status"] == "finished"
    assert cli.main([*words, "--out", "run", "--resume", "--report=false"]) == 0


def test_extremes_that_fail_do_not_fail_the_fit(place, capsys, heard, monkeypatch):
    def failing(reward, samples):
        raise ValueError("no scores today")

    monkeypatch.setattr("rewardlab.commands.extremes.scores_of", failing)
    assert cli.main(["fit", "--config", "reward.yaml", "--out", "run", "--report=false"]) == 0
    assert "run/reward" in capsys.readouterr().out
    assert "no scores today" in heard.text
    assert not Path("run/held-out").exists()
    said = json.loads(Path("run/diagnostics.json").read_text())
    assert [entry["level"] for entry in said if "no scores today" in entry["sentence"]] == [
        "warning"
    ]
    assert json.loads(Path("run/run.json").read_text())["status"] == "finished"


def test_a_dry_run_goes_through_one_batch_and_writes_nothing(place, capsys):
    before = sorted(place.rglob("*"))
    assert cli.main(["fit", "--config", "fit.yaml", "--out", "run", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "policy" in text
    assert "trained" in text
    assert sorted(place.rglob("*")) == before


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://example.org/last.ckpt", "would be fetched"),
        ("s3://bucket/last.ckpt", "would be fetched"),
        ("file:///data/last.ckpt", "would be fetched"),
        ("registry:model", "would be fetched"),
        ("code.ckpt", "whose code would run"),
        ("plain.pkl", "whose code would run"),
        ("cut.ckpt", "cannot be loaded as tensors"),
        ("absent.ckpt", "does not exist"),
    ],
)
def test_a_checkpoint_is_a_local_file_of_tensors(place, capsys, verb, location, words):
    torch.save({"state_dict": {}, "extra": Code()}, "code.ckpt")
    Path("plain.pkl").write_bytes(pickle.dumps(Code()))
    Path("cut.ckpt").write_bytes(Path("code.ckpt").read_bytes()[:100])
    argv = [verb, "--config", "fit.yaml", f"--ckpt_path={location}"]
    assert cli.main([*argv, "--out", "run"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not Path("executed").exists()
    assert not Path("run").exists()


def test_nothing_is_unpickled_on_request_either(place, capsys):
    argv = ["fit", "--config", "fit.yaml", "--out", "run", "--weights_only=false"]
    assert cli.main(argv) == 2
    assert "would unpickle" in capsys.readouterr().err


def test_a_fit_that_is_interrupted_exports_nothing(place, capsys):
    (place / "fit.yaml").write_text(FIT.replace("rewardlab.training.SFT", "fit_toys.Pressed"))
    assert cli.main(["fit", "--config", "fit.yaml", "--out", "run"]) == 130
    assert "with --resume goes on" in capsys.readouterr().err
    assert not (place / "run" / "policy").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_fit_that_is_ended_keeps_the_step_and_says_how_to_go_on(
    place, monkeypatch, capsys, heard, number
):
    (place / "fit.yaml").write_text(FIT.replace("rewardlab.training.SFT", "fit_toys.Ended"))
    words = ["fit", "--config", "fit.yaml", "--out"]
    assert cli.main([*words, "straight"]) == 0
    monkeypatch.setenv("SIGNAL", str(int(number)))
    assert cli.main([*words, "run"]) == 128 + number
    error = capsys.readouterr().err
    asked = f"Asked to end by {number.name}: the step is finished and kept first."
    assert asked in heard.text
    assert f"rewardlab: ended by {number.name}; the same command with --resume goes on" in error
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    facts = json.loads((place / "run" / "run.json").read_text())
    assert facts["status"] == "interrupted"
    assert facts["command"] == ["rewardlab", *words, "run"]
    monkeypatch.delenv("SIGNAL")
    assert cli.main([*words, "run", "--resume"]) == 0
    assert "Going on in run: step 2 stands; 1 of 3 steps are left." in heard.text
    facts = json.loads((place / "run" / "run.json").read_text())
    assert facts["status"] == "finished"
    assert [attempt["status"] for attempt in facts["earlier"]] == ["interrupted"]
    for file in ("metrics.csv", "policy/unet/diffusion_pytorch_model.safetensors"):
        assert (place / "run" / file).read_bytes() == (place / "straight" / file).read_bytes()


PROCESS = """
import os, signal, sys, threading
from rewardlab import cli
from rewardlab.commands import report

def wait(command, argv):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(60)

report.run = wait
sys.exit(cli.main(["report", "run"]))
"""


def test_a_process_that_is_ended_says_so_and_exits_with_143(tmp_path):
    """Not while it trains: it ends at once, by an exception, so that what is half made goes."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 143
    assert done.stderr.startswith("rewardlab: ended by SIGTERM; the same command with --resume")


def test_a_fit_whose_last_checkpoint_is_cut_goes_on_from_the_one_before(place, capsys, heard):
    words = ["fit", "--config", "fit.yaml", "--out"]
    epochs = ["--trainer.max_steps=-1", "--trainer.max_epochs=2"]
    assert cli.main([*words, "straight", *epochs]) == 0
    assert cli.main([*words, "run", *epochs]) == 0
    shutil.rmtree("run/policy")
    last = place / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-20])
    for file in last.parent.glob("epoch=1*.ckpt"):
        file.write_bytes(b"")
    assert cli.main([*words, "run", *epochs, "--resume"]) == 0
    instead = "last.ckpt cannot be loaded: cut or damaged; earlier.ckpt of step 6 is taken"
    assert instead in heard.text
    for file in ("metrics.csv", "policy/unet/diffusion_pytorch_model.safetensors"):
        assert (place / "run" / file).read_bytes() == (place / "straight" / file).read_bytes()
    for file in last.parent.glob("*.ckpt"):
        file.write_bytes(b"")
    assert cli.main([*words, "run", *epochs, "--resume"]) == 2
    assert "None of the checkpoints in run/checkpoints can be loaded" in capsys.readouterr().err


def test_ctrl_c_in_a_fit_of_rounds_is_an_interruption(place, capsys):
    (place / "rounds.yaml").write_text("rounds: {class_path: fit_toys.Fits}")
    assert cli.main(["rounds", "--config", "rounds.yaml", "--out", "run"]) == 130
    assert "with --resume goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["test", "--config", "fit.yaml"],
            "`rewardlab test` runs a module's test_step, and SFT has none.",
        ),
        (
            ["predict", "--config", "reward.yaml"],
            "`rewardlab predict` runs a module's predict_step, and GANRM has none.",
        ),
        (
            ["fit", "--config", "fit.yaml", "--ckpt_path", "nope.ckpt"],
            "--ckpt_path nope.ckpt does not exist.",
        ),
        (
            ["validate", "--config", "fit.yaml", "--ckpt_path=nope.ckpt"],
            "--ckpt_path nope.ckpt does not exist.",
        ),
        (
            ["fit", "--config", "fit.yaml", "--trainer.devices=0"],
            "The trainer that is configured cannot be made here",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_no_folder(place, capsys, words, sentence):
    assert cli.main([*words, "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.rstrip().splitlines()[-1].startswith("rewardlab: ")
    assert "Traceback" not in error
    assert not (place / "run").exists()


def test_a_module_with_a_test_step_is_tested(place):
    config = yaml.safe_load(FIT.replace("rewardlab.training.SFT", "fit_toys.Tested"))
    (place / "fit.yaml").write_text(yaml.safe_dump(config))
    (place / "fit_toys.py").write_text(TOYS + DATA)
    assert (
        cli.main(["test", "--config", "fit.yaml", "--data=fit_toys.Held", "--data.samples=samples"])
        == 0
    )


DATA = """
from rewardlab.data import SamplesData

class Held(SamplesData):
    def __init__(self, samples: str):
        super().__init__(samples, batch_size=2, channels=1)

    def test_dataloader(self):
        return self.train_dataloader()
"""
