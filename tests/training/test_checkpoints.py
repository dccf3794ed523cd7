"""Checkpoints by steps and minutes change nothing, and a cut one is passed over with a word."""

import contextlib
import logging
import os

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.nn.functional import mse_loss

from rewardlab.data import ResumableLoader, Rows
from rewardlab.training import Resumable
from rewardlab.training.checkpoints import LastCheckpoint, checkpoint_to_resume

ROWS = 12
BATCH = 3  # four batches an epoch


class Killed(Exception):  # noqa: N818
    pass


class Loop(pl.LightningModule):
    """A network with dropout, whose held-out loss grows from the second epoch on."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1)
        )
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        loss = mse_loss(self.net(torch.stack([batch, batch.cos()], 1))[:, 0], batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Rising(pl.Callback):
    """Log a figure at the trainer's step, as guards do, and die where it is asked for."""

    def __init__(self, dies_at=None):
        self.dies_at = dies_at

    def on_train_batch_end(self, trainer, *_):
        for logger in trainer.loggers:
            logger.log_metrics({"guard/score": trainer.global_step}, step=trainer.global_step)
        if trainer.global_step == self.dies_at:
            raise Killed


class DiesAtTheEnd(pl.Callback):
    def on_train_end(self, *_):
        raise Killed


def fit(folder, *callbacks, epochs=3, **options):
    """Train in `folder`, from the checkpoint that is there if there is one."""
    checkpoint = checkpoint_to_resume(folder)
    pl.seed_everything(1 if checkpoint else 0, verbose=False)
    module = Loop()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[*callbacks, Resumable()],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    loader = ResumableLoader(Rows(torch.arange(ROWS).float()), BATCH, seed=5)
    held_out = ResumableLoader(Rows(torch.arange(2.0)), 2, shuffle=False)
    with contextlib.suppress(Killed):
        trainer.fit(module, loader, held_out, ckpt_path=checkpoint, weights_only=True)
    rows = folder / "metrics.csv"
    return module, rows.read_text() if rows.exists() else ""


def weights(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return fit(folder, Rising(), LastCheckpoint(folder / "last.ckpt", minutes=100))


def saved_steps(monkeypatch):
    """The steps at which a checkpoint was written, from now on."""
    steps = []
    save = pl.Trainer.save_checkpoint

    def noted(trainer, *args, **options):
        steps.append(trainer.global_step)
        return save(trainer, *args, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", noted)
    return steps


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"minutes": 0.0}, list(range(1, 12))),
        ({"steps": 5}, [5, 10]),
        ({"epochs": True}, [4, 8, 12]),
        ({"minutes": 100.0}, []),
    ],
)
def test_nothing_depends_on_when_checkpoints_are_kept(
    straight, tmp_path, monkeypatch, options, steps
):
    saved = saved_steps(monkeypatch)
    module, rows = fit(tmp_path, Rising(), LastCheckpoint(tmp_path / "last.ckpt", **options))
    assert saved == steps
    assert weights(module).equal(weights(straight[0]))
    assert rows == straight[1]


def test_checkpoints_come_by_the_clock(tmp_path, monkeypatch):
    clock = [0.0]

    class Slow(pl.Callback):
        def on_train_batch_end(self, *_):
            clock[0] += 50.0

    monkeypatch.setattr("rewardlab.training.checkpoints.time.monotonic", lambda: clock[0])
    saved = saved_steps(monkeypatch)
    fit(tmp_path, Slow(), LastCheckpoint(tmp_path / "last.ckpt", minutes=2.0))
    assert saved == [3, 6, 9], "after 150 seconds, the first step that ends after two minutes"


def test_no_checkpoint_comes_between_accumulated_batches(tmp_path, monkeypatch):
    saved = saved_steps(monkeypatch)
    last = LastCheckpoint(tmp_path / "last.ckpt", minutes=0.0)
    module, _ = fit(tmp_path, last, accumulate_grad_batches=2)
    assert saved == [1, 2, 3, 4, 5]
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    batches = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    assert batches["completed"] == 10
    assert module.steps == 12


@pytest.mark.parametrize("dies_at", [3, 4, 5, 8, 11])
def test_a_fit_that_died_between_checkpoints_ends_with_every_row_once(straight, tmp_path, dies_at):
    """A guard's row at step k stands before the checkpoint of step k, and is not of a step below."""
    keep = {"file": tmp_path / "last.ckpt", "steps": 2, "minutes": 100.0}
    fit(tmp_path, Rising(dies_at), LastCheckpoint(**keep))
    module, rows = fit(tmp_path, Rising(), LastCheckpoint(**keep))
    assert weights(module).equal(weights(straight[0]))
    assert rows == straight[1]


def test_a_file_that_was_cut_when_a_column_came_is_made_whole(straight, tmp_path):
    keep = {"file": tmp_path / "last.ckpt", "steps": 2, "minutes": 100.0}
    fit(tmp_path, Rising(7), LastCheckpoint(**keep))
    (tmp_path / "metrics.csv").write_text("")  # and so its second name, a link
    assert (tmp_path / ".metrics.csv.kept").read_text() == ""
    _, rows = fit(tmp_path, Rising(), LastCheckpoint(**keep))
    assert rows == straight[1]


def test_a_fit_with_nothing_left_to_train_keeps_its_rows(straight, tmp_path):
    fit(tmp_path, Rising(), LastCheckpoint(tmp_path / "last.ckpt", epochs=True))
    again, rows = fit(tmp_path, Rising(), LastCheckpoint(tmp_path / "last.ckpt"))
    assert again.steps == 0
    assert rows == straight[1]


def test_one_that_was_stopped_early_and_killed_stays_stopped(tmp_path):
    """Lightning 2.6.6 forgets that a callback had ended the training, and trains on."""

    def run(folder, *callbacks):
        return fit(
            folder,
            EarlyStopping("val/loss", patience=1),
            ModelCheckpoint(folder, "best", monitor="val/loss"),
            LastCheckpoint(folder / "last.ckpt", epochs=True),
            *callbacks,
            epochs=9,
        )

    module, rows = run(tmp_path / "straight")
    assert module.steps == 8
    run(tmp_path / "killed", DiesAtTheEnd())
    resumed, rows_again = run(tmp_path / "killed")
    assert resumed.steps == 0
    assert resumed.trainer.current_epoch == module.trainer.current_epoch == 2
    assert weights(resumed).equal(weights(module))
    assert rows_again == rows


class TestFurthest:
    @pytest.fixture(autouse=True)
    def heard(self, monkeypatch):
        monkeypatch.setattr(logging.getLogger("rewardlab"), "propagate", True)

    @pytest.mark.parametrize("cut", [0, 100, -1])
    def test_a_cut_one_is_named_and_the_one_before_taken(self, straight, tmp_path, caplog, cut):
        keep = {"file": tmp_path / "last.ckpt", "steps": 2, "minutes": 100.0}
        fit(tmp_path, Rising(7), LastCheckpoint(**keep))
        content = (tmp_path / "last.ckpt").read_bytes()
        (tmp_path / "last.ckpt").write_bytes(content[:cut])
        module, rows = fit(tmp_path, Rising(), LastCheckpoint(**keep))
        assert "last.ckpt cannot be loaded: cut or damaged; earlier.ckpt of step 4" in caplog.text
        assert weights(module).equal(weights(straight[0]))
        assert rows == straight[1]

    def test_steps_count_and_not_the_clock(self, tmp_path):
        for name, step, seconds in (("a", 5, 100), ("b", 9, 50), ("last", 9, 10)):
            torch.save({"global_step": step}, tmp_path / f"{name}.ckpt")
            os.utime(tmp_path / f"{name}.ckpt", (seconds, seconds))
        assert checkpoint_to_resume(tmp_path).name == "last.ckpt"
        (tmp_path / "last.ckpt").unlink()
        assert checkpoint_to_resume(tmp_path).name == "b.ckpt"

    def test_those_between_two_steps_come_before_others(self, tmp_path):
        """Else a kill at the end of the last epoch leaves a last.ckpt that is not the end's."""
        for name, step in (("epoch=1-step=9", 9), ("last", 5), ("earlier", 4)):
            torch.save({"global_step": step}, tmp_path / f"{name}.ckpt")
        assert checkpoint_to_resume(tmp_path).name == "last.ckpt"
        (tmp_path / "last.ckpt").unlink()
        assert checkpoint_to_resume(tmp_path).name == "earlier.ckpt"

    def test_there_may_be_none(self, tmp_path, caplog):
        assert checkpoint_to_resume(tmp_path) is None
        (tmp_path / "last.ckpt").touch()
        assert checkpoint_to_resume(tmp_path) is None
        assert "no other stands beside it" in caplog.text
