"""Manual optimization: the optimizer and schedule of a loop that steps them itself."""

from __future__ import annotations

from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer


def optimizer_of(module: LightningModule) -> LightningOptimizer:
    """Return a loop's only optimizer."""
    optimizer = module.optimizers()
    assert isinstance(optimizer, LightningOptimizer)
    return optimizer


def step_schedule(module: LightningModule) -> None:
    """Step a loop's learning-rate schedule, if it has one."""
    schedule = module.lr_schedulers()
    if schedule is not None:
        assert not isinstance(schedule, list)  # `configure_optimizers` makes one
        schedule.step()
