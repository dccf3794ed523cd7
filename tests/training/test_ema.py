"""The average of the trained weights: its recursion, validation, and a resumed run."""

import contextlib

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from rewardlab.data import ResumableLoader, Rows
from rewardlab.training import EMA, Resumable

DECAY = 0.7


class Walk(pl.LightningModule):
    """One trained weight that takes known steps, beside a frozen one."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Parameter(torch.ones(1000), requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        return (self.weight * batch).sum()

    def on_train_batch_end(self, *_):
        self.seen.append(self.weight.item())

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.weight.item())

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)


class Killed(Exception):  # noqa: N818
    pass


class KillAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Killed


def fit(*callbacks, module=None, ckpt_path=None, validate=False, **options):
    module = module or Walk()
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": bool(ckpt_path),
        }
        | {
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": list(callbacks),
        }
        | options
    )
    loaders = [ResumableLoader(Rows(torch.arange(1.0, 6.0)), 1, seed=2)]
    loaders += [ResumableLoader(Rows(torch.zeros(1)), 1)] * validate
    trainer.fit(module, *loaders, ckpt_path=ckpt_path, weights_only=True)
    return module


def averages(weights, start=0.0):
    """The recursion, average <- decay · average + (1 - decay) · weight, from the first weights."""
    averages = [start]
    for weight in weights:
        averages.append(DECAY * averages[-1] + (1 - DECAY) * weight)
    return averages


def test_what_is_left_in_the_model_is_the_recursion():
    module = fit(EMA(DECAY))
    assert len(module.seen) == 10
    assert module.weight.item() == pytest.approx(averages(module.seen)[-1], rel=1e-5)
    assert module.weight.item() != pytest.approx(module.seen[-1], rel=0.1)


def test_training_itself_goes_on_from_the_plain_weights():
    assert fit(EMA(DECAY), validate=True).seen == fit().seen


def test_validation_sees_the_average():
    module = fit(EMA(DECAY), validate=True, num_sanity_val_steps=0)
    expected = averages(module.seen)
    assert module.validated == pytest.approx([expected[5], expected[10]], rel=1e-5)


def test_a_sanity_check_before_training_sees_the_weights_as_they_are():
    assert fit(EMA(DECAY), validate=True).validated[0] == 0


def test_accumulated_gradients_are_one_step():
    module = fit(EMA(DECAY), accumulate_grad_batches=2)
    steps = [module.seen[i] for i in (1, 3, 4, 6, 8, 9)]  # an epoch's last step has one batch
    assert module.weight.item() == pytest.approx(averages(steps)[-1], rel=1e-5)


def test_only_what_is_trained_is_copied():
    ema = EMA()
    ema.on_train_start(
        pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False), Walk()
    )
    assert [average.shape for average in ema.state_dict()["average"]] == [torch.Size([1])]


def test_a_second_fit_starts_a_new_average():
    ema = EMA(DECAY)
    module = fit(EMA(DECAY))
    fit(ema, module=module)
    start = module.weight.item()
    module.seen.clear()
    fit(ema, module=module)
    assert module.weight.item() == pytest.approx(averages(module.seen, start)[-1], rel=1e-5)


def keep(folder):
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.mark.parametrize("step", [2, 5, 8, 10])
def test_a_resumed_run_ends_with_the_same_average(tmp_path, step):
    """Also one that was killed after its last step, and so has nothing left to train."""
    straight = fit(EMA(DECAY))
    with contextlib.suppress(Killed):
        fit(EMA(DECAY), keep(tmp_path), KillAt(step), Resumable(), enable_checkpointing=True)
    resumed = fit(EMA(DECAY), keep(tmp_path), Resumable(), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert len(resumed.seen) == 10 - step
    assert torch.equal(resumed.weight, straight.weight)
