"""A run that was stopped and resumed equals one that was not, bit for bit."""

import contextlib
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.functional import mse_loss

from rewardlab.data import ResumableLoader, Rows
from rewardlab.errors import InputError
from rewardlab.training import Resumable

ROWS, BATCH = 14, 3  # five batches an epoch, the last of two rows
LIMITS = [
    {"max_epochs": 2},
    {"max_steps": 10, "max_epochs": -1},
]  # Lightning resumes differently under each


class Tiny(pl.LightningModule):
    """A network whose result depends on the order of the data and on three global random states."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.tolist())
        noise = random.random() + np.random.rand()
        inputs = torch.stack([batch.sin(), batch.cos(), batch / ROWS, torch.ones_like(batch)], 1)
        loss = mse_loss(self.net(inputs)[:, 0], batch * noise)
        self.log("loss", loss)
        if batch_idx >= 3:
            self.log("late", 1.0)  # a column that comes later
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("held_out", self.net.training + batch.sum(), batch_size=len(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Killed(Exception):  # noqa: N818
    pass


class StopAt(pl.Callback):
    """Fail in the middle of the given step, and write a checkpoint then if there is a path."""

    def __init__(self, step, path=None):
        self.step, self.path = step, path

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            raise Killed

    def on_exception(self, trainer, pl_module, exception):
        if self.path:
            trainer.save_checkpoint(self.path)


def fit(folder, *callbacks, ckpt_path=None, workers=0, validate=False, **limits):
    """Train new objects in `folder`. Random states start from another seed in a resumed run."""
    pl.seed_everything(1 if ckpt_path else 0, verbose=False)
    module = Tiny()
    loader = ResumableLoader(Rows(torch.arange(ROWS).float()), BATCH, seed=5, num_workers=workers)
    held_out = ResumableLoader(Rows(torch.arange(4.0)), 2, shuffle=False) if validate else None
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[*callbacks, Resumable()],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )
    with contextlib.suppress(Killed):
        trainer.fit(module, loader, held_out, ckpt_path=ckpt_path, weights_only=True)
    return module, (folder / "metrics.csv").read_text()


def every_step(folder):
    return ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that nothing stopped: two epochs, ten steps."""
    folder = tmp_path_factory.mktemp("straight")
    return fit(folder, every_step(folder), max_epochs=2, validate=True)


@pytest.mark.parametrize(
    ("killed_at", "resumed_from", "workers"),
    [(4, 2, 1), (4, 4, 0), (6, 5, 0), (9, 5, 0), (9, 8, 0)],  # 5 is the end of the first epoch
)
@pytest.mark.parametrize("limits", LIMITS)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    straight, tmp_path, killed_at, resumed_from, workers, limits
):
    fit(tmp_path, every_step(tmp_path), StopAt(killed_at), validate=True, workers=workers, **limits)
    path = tmp_path / "checkpoints" / f"step={resumed_from}.ckpt"
    module, rows = fit(
        tmp_path, every_step(tmp_path), ckpt_path=path, validate=True, workers=workers, **limits
    )
    assert module.seen == straight[0].seen[resumed_from:]
    assert same(module, straight[0])
    assert rows == straight[1]


@pytest.mark.parametrize("steps", [3, 5, 7])
def test_a_run_that_ended_at_max_steps_goes_on_to_more_steps(straight, tmp_path, steps):
    path = tmp_path / "checkpoints/last.ckpt"
    fit(
        tmp_path,
        ModelCheckpoint(path.parent, save_last=True),
        max_steps=steps,
        max_epochs=-1,
        validate=True,
    )
    last = ModelCheckpoint(path.parent, save_last=True)
    module, rows = fit(tmp_path, last, ckpt_path=path, max_steps=10, max_epochs=-1, validate=True)
    assert module.seen == straight[0].seen[steps:]
    assert same(module, straight[0])
    assert rows == straight[1]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("after_validation", [True, False])
def test_a_checkpoint_of_an_epochs_end_goes_on_with_the_next_epoch(
    straight, tmp_path, limits, after_validation
):
    when = {"save_top_k": -1, "save_on_train_epoch_end": not after_validation}
    ends = [ModelCheckpoint(tmp_path / "checkpoints", "{epoch}", **when) for _ in range(2)]
    fit(tmp_path, ends[0], StopAt(7), validate=True, **limits)
    module, rows = fit(
        tmp_path, ends[1], ckpt_path=tmp_path / "checkpoints/epoch=0.ckpt", validate=True, **limits
    )
    assert module.seen == straight[0].seen[5:]
    assert same(module, straight[0])
    assert rows == straight[1]


@pytest.mark.parametrize("step", [0, 5, 7])
def test_a_step_that_failed_is_taken_again(straight, tmp_path, step):
    """Before an exception's checkpoint, a batch was fetched and its dropout drawn, without a step."""
    path = tmp_path / "failed.ckpt"
    fit(tmp_path, StopAt(step, path), max_epochs=2, validate=True, enable_checkpointing=False)
    module, rows = fit(
        tmp_path, ckpt_path=path, max_epochs=2, validate=True, enable_checkpointing=False
    )
    assert module.seen == straight[0].seen[step:]
    assert same(module, straight[0])
    assert rows == straight[1]


def test_without_the_callback_the_result_differs(straight, tmp_path):
    """The tests above can fail: the network depends on the random states."""
    fit(tmp_path, every_step(tmp_path), StopAt(4), max_epochs=2, validate=True)
    path = tmp_path / "checkpoints/step=2.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["callbacks"]["Resumable"]
    torch.save(checkpoint, path)
    module, _ = fit(tmp_path, every_step(tmp_path), ckpt_path=path, max_epochs=2, validate=True)
    assert module.seen == straight[0].seen[2:]
    assert not same(module, straight[0])


def test_rows_of_an_older_run_in_the_folder_do_not_come_back(straight, tmp_path):
    for _ in range(2):
        _, rows = fit(tmp_path, every_step(tmp_path), max_epochs=2, validate=True)
    assert rows == straight[1]


def test_a_second_fit_of_one_trainer_keeps_the_rows(tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(tmp_path, name="", version=""),
        callbacks=[Resumable()],
        max_epochs=1,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    module, loader = Tiny(), ResumableLoader(Rows(torch.arange(ROWS).float()), BATCH)
    trainer.fit(module, loader, Rows(torch.arange(2.0)))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader, Rows(torch.arange(2.0)))
    steps = [line.split(",")[-1] for line in (tmp_path / "metrics.csv").read_text().split()[1:]]
    assert sorted(set(steps)) == [str(step) for step in range(10)]


def test_another_data_set_is_refused(tmp_path):
    state = ResumableLoader(Rows(torch.arange(9.0)), BATCH).state_dict()
    with pytest.raises(InputError, match=r"'rows': 9.*now it is \{'rows': 8\}"):
        ResumableLoader(Rows(torch.arange(8.0)), BATCH).load_state_dict(state)
