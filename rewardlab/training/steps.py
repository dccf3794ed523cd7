"""Steps of a training, counted for the run's log file."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl

from rewardlab.progress import Count


class CountedSteps(pl.Callback):
    """Count a training's optimizer steps, so that the log file tells rate and time left."""

    def __init__(self) -> None:
        self._count: Count | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count = Count("training, steps", _total(trainer, pl_module))
        self._count.begin(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._count is not None:
            self._count.done = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._count is not None:
            self._count.end()


def _total(trainer: pl.Trainer, module: pl.LightningModule) -> float:
    """Return how many optimizer steps a training takes at most; infinite where it is not known.

    A loop that calls the optimizer itself, as PPO does, may take several steps a batch.
    """
    if trainer.max_steps > 0:
        return trainer.max_steps
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0 or not module.automatic_optimization:
        return math.inf
    return epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
