"""Configs do what they say: own defaults of named classes, kept references, seeds, nulls, names."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
import torch
import yaml

from rewardlab import cli
from rewardlab.commands.fit import TrainingCLI
from rewardlab.commands.parsing import resolved
from rewardlab.errors import InputError

TOYS = """
import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import OptimizerCallable

class Inner:
    def __init__(self, path: str = "", seed: int = 0):
        self.path, self.seed = path, seed

class Line(LightningModule):
    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        inner: Inner | None = None,
        beta: float = 1.0,
        names: list[str] = [],
        facts: dict[str, int] = {},
        seed: int = 0,
    ):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.optimizer, self.inner, self.beta = optimizer, inner, beta
        self.names, self.facts, self.seed = names, facts, seed

    def training_step(self, batch, _):
        return (self.layer(batch) - 1).square().mean()

    def configure_optimizers(self):
        return self.optimizer(self.parameters())

class Other(Line):
    def __init__(self, optimizer: OptimizerCallable = torch.optim.AdamW, inner: Inner | None = None, seed: int = 0):
        super().__init__(optimizer, inner, seed=seed)

class Points(LightningDataModule):
    def __init__(self, size: int = 4, seed: int = 0):
        super().__init__()
        self.size, self.seed = size, seed

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(4.0)[:, None], batch_size=2)

class More(Points):
    pass

class Draws(Callback):
    def __init__(self, count: int = 1, seed: int = 0):
        self.count, self.seed = count, seed

class Marks(Callback):
    def __init__(self, count: int = 2, seed: int = 0):
        self.count, self.seed = count, seed
"""
CONFIG = """
experiment: {data_path: here, seed: 3}
model:
  class_path: composing_toys.Line
  init_args:
    inner: {class_path: composing_toys.Inner, init_args: {path: "${experiment.data_path}"}}
    seed: ${experiment.seed}
data: {class_path: composing_toys.Points, init_args: {seed: "${experiment.seed}"}}
trainer:
  max_steps: 1
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
"""
OPTIMIZER = "model:\n  init_args:\n    optimizer: {class_path: torch.optim.%s, init_args: {%s}}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the toys and a config."""
    (tmp_path / "composing_toys.py").write_text(TOYS)
    (tmp_path / "fit.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("composing_toys", None)
    return tmp_path


def built(*flags):
    return TrainingCLI("fit", ["--config", "fit.yaml", "--out", "run", *flags])


def config_of(found):
    return resolved(found.parser, found.config)


def own_defaults(name):
    """What the optimizer's signature says."""
    parameters = inspect.signature(getattr(torch.optim, name)).parameters.values()
    defaults = {}
    for parameter in parameters:
        if parameter.default is not inspect.Parameter.empty:
            defaults[parameter.name] = parameter.default
    return defaults


@pytest.mark.parametrize("form", ["yaml", "flag", "short flag", "bare name", "json"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("Adagrad", {}),
        ("RMSprop", {"momentum": 0.5}),
        ("Adam", {}),
        ("NAdam", {"lr": 0.3}),
        ("AdamW", {"lr": 0.3}),
    ],
)
def test_an_optimizer_gets_its_own_defaults(place, name, options, form):
    wanted = own_defaults(name) | options
    words = ", ".join(f"{key}: {value}" for key, value in options.items())
    (place / "more.yaml").write_text(OPTIMIZER % (name, words))
    key = "--model.init_args.optimizer"
    below = [f"{key}.init_args.{option}={value}" for option, value in options.items()]
    flags = {
        "yaml": ["--config", "more.yaml"],
        "flag": [key, f"torch.optim.{name}", *below],
        "short flag": [f"--model.optimizer=torch.optim.{name}", *below],
        "bare name": [f"{key}.class_path={name}", *below],
        "json": [f'{key}={{"class_path": "torch.optim.{name}"}}', *below],
    }[form]
    found = built(*flags)
    arguments = config_of(found)["model"]["init_args"]["optimizer"]["init_args"]
    group = found.model.configure_optimizers().param_groups[0]
    for option, value in wanted.items():
        stated = arguments[option]
        assert (tuple(stated) if isinstance(value, tuple) else stated) == value, option
        if option in group:
            assert group[option] == value, option


def test_what_was_written_outlives_another_class_and_defaults_do_not(place):
    """A rate that someone wrote is kept; the weight decay that nobody wrote is not."""
    (place / "more.yaml").write_text(OPTIMIZER % ("AdamW", "lr: 0.001"))
    found = built("--config=more.yaml", "--model.init_args.optimizer=torch.optim.Adagrad")
    group = found.model.configure_optimizers().param_groups[0]
    assert (group["lr"], group["weight_decay"], group["eps"]) == (0.001, 0, 1e-10)


def test_the_saved_config_gives_the_same_optimizer(place):
    found = built("--model.init_args.optimizer=torch.optim.SGD")
    (place / "saved.yaml").write_text(yaml.safe_dump(config_of(found)))
    again = TrainingCLI("fit", ["--config", "saved.yaml", "--out", "run"])
    assert config_of(again) == config_of(found)


@pytest.mark.parametrize("seed", [7, 0])
def test_another_class_keeps_references(place, seed):
    """By a flag and by a second config; also a reference of a nested class."""
    (place / "more.yaml").write_text("data: {class_path: composing_toys.More}")
    flags = ["--model", "composing_toys.Other", "--config", "more.yaml"]
    found = built(*flags, f"--experiment.seed={seed}", "--experiment.data_path=there")
    assert type(found.model).__name__ == "Other"
    assert type(found.datamodule).__name__ == "More"
    assert (found.model.seed, found.datamodule.seed) == (seed, seed)
    assert found.model.inner.path == "there"


def test_unset_seeds_follow_the_experiment_where_it_has_one(place):
    callback = "--trainer.callbacks+=composing_toys.Draws"
    found = built("--experiment.seed=7", callback, "--data.init_args.seed=5")
    assert (found.model.inner.seed, found.model.seed, found.datamodule.seed) == (7, 7, 5)
    assert found.trainer.callbacks[0].seed == 7
    assert config_of(found)["model"]["init_args"]["inner"]["init_args"]["seed"] == 7
    (place / "fit.yaml").write_text(CONFIG.replace(", seed: 3", ""))
    assert built().model.inner.seed == 0


def test_items_of_lists_get_their_own_defaults(place):
    first = "trainer:\n  callbacks:\n    - {class_path: composing_toys.Draws}\n"
    (place / "first.yaml").write_text(first)
    (place / "second.yaml").write_text(first.replace("Draws", "Marks"))
    callback = built("--config=first.yaml", "--config=second.yaml").trainer.callbacks[0]
    assert (type(callback).__name__, callback.count) == ("Marks", 2)


def test_a_key_with_a_plus_sign_lays_items_behind_a_list(place):
    """Their own defaults, seeds and later flags reach them; the items before stay."""
    draws = "trainer:\n  callbacks:\n    - {class_path: composing_toys.Draws}\n"
    (place / "first.yaml").write_text(draws)
    marks = draws.replace("callbacks", "callbacks+").replace("Draws", "Marks")
    (place / "second.yaml").write_text(marks)
    flags = ["--experiment.seed=7", "--trainer.callbacks.init_args.count=5"]
    for files in (["first", "second"], ["second"]):
        configs = [f"--config={file}.yaml" for file in files]
        callbacks = built(*configs, *flags).trainer.callbacks
        own = [item for item in callbacks if type(item).__module__ == "composing_toys"]
        names = ["Draws", "Marks"][-len(files) :]
        assert [type(callback).__name__ for callback in own] == names
        assert [callback.count for callback in own] == [1, 5][-len(files) :]
        assert {callback.seed for callback in own} == {7}
    other = built("--config=second.yaml", "--trainer.callbacks=composing_toys.Draws")
    assert type(other.trainer.callbacks[0]).__name__ == "Draws"


@pytest.mark.parametrize("flag", ["--trainer.max_epoch=3", "--model.init_args.bet=2", "--resum"])
def test_an_abbreviated_flag_is_named(place, capsys, flag):
    assert cli.main(["fit", "--config", "fit.yaml", flag]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_null_is_the_empty_value_or_is_refused(place):
    found = built("--model.init_args.names=null", "--model.init_args.facts=null")
    assert (found.model.names, found.model.facts) == ([], {})
    assert built("--model.init_args.inner=null", "--trainer.callbacks=null").model.inner is None
    with pytest.raises(InputError, match=r"model.beta is null, and Line takes no null there"):
        built("--model.init_args.beta=null")


@pytest.mark.parametrize(
    ("name", "argument", "stated"),
    [
        ("Timer", "duration=00:00:10:00", {"duration": "00:00:10:00", "interval": "step"}),
        ("ModelPruning", "pruning_fn=l1_unstructured", {"pruning_fn": "l1_unstructured"}),
    ],
)
def test_callbacks_of_lightning_work_by_name(place, name, argument, stated):
    flags = [f"--trainer.callbacks+=pytorch_lightning.callbacks.{name}"]
    flags.append(f"--trainer.callbacks.{argument}")
    assert cli.main(["fit", "--config", "fit.yaml", "--out", "run", *flags]) == 0
    config = yaml.safe_load((place / "run/config.yaml").read_text())
    arguments = config["trainer"]["callbacks"][0]["init_args"]
    assert stated.items() <= arguments.items()
    assert cli.main(["fit", "--config", "run/config.yaml", "--out", "again"]) == 0


def test_the_command_imports_modules_of_the_current_folder(place):
    """As `python -m rewardlab` does: by the function that the installed command calls."""
    code = "import sys; sys.path.pop(0); from rewardlab.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "fit", "--config", "fit.yaml", "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
