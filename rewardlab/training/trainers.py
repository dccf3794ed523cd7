"""Trainers as stages and commands use them: with clear errors, and ended between two steps."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer

from rewardlab.errors import InputError, Terminated
from rewardlab.training.checkpoints import is_between_steps, save_last

_log = logging.getLogger("rewardlab")

SILENT = dict.fromkeys(
    ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], Any] | int | None  # as `signal.getsignal` returns


def make_trainer(make: Callable[..., Trainer], **options: Any) -> Trainer:
    """Return `make(**options)`.

    Raises:
        InputError: if Lightning cannot make it here, as with a GPU where there is none.

    Example:
        >>> make_trainer(Trainer, accelerator="cpu", devices=0)
        Traceback (most recent call last):
        rewardlab.errors.InputError: The trainer that is configured cannot be made here: ...
    """
    try:
        return make(**options)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".!")
        raise InputError(
            f"The trainer that is configured cannot be made here: {reason}. `rewardlab doctor` "
            "shows this machine's devices; to train on the CPU set the trainer's accelerator to "
            "cpu and its devices to 1, as configs/trainer/cpu.yaml does."
        ) from None


def add_callbacks(trainer: Any, callbacks: Sequence[pl.Callback]) -> None:
    """Add callbacks to those that a trainer has.

    Lightning sets a trainer's callbacks outside its class, so its type does not show them.
    """
    trainer.callbacks.extend(callbacks)


def device_of(make: Callable[..., Trainer]) -> torch.device:
    """Return the device that a trainer trains on, when it is made by `make`.

    Example:
        >>> from functools import partial
        >>> device_of(partial(Trainer, accelerator="cpu"))
        device(type='cpu')
    """
    return make_trainer(make, **SILENT).strategy.root_device


def processes_of(make: Callable[..., Trainer]) -> int:
    """Return how many processes train when the trainer is made by `make`.

    Example:
        >>> from functools import partial
        >>> processes_of(partial(Trainer, accelerator="cpu", devices=2))
        2
    """
    return make_trainer(make, **SILENT).world_size


class Interruptible(pl.Callback):
    """Let Ctrl-C, SIGTERM and SIGHUP end the training after the current step, with a checkpoint.

    A second signal ends it at once. A checkpoint between two steps is one from which a resumed run
    equals one that was never stopped. This callback comes after `Resumable` among the callbacks. It
    has no effect where several processes train, outside the main thread, and on signals that are
    ignored, as Ctrl-C is by a shell's background jobs and SIGHUP under nohup.

    Args:
        file: path of the checkpoint.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._asked: int | None = None
        self._owner = 0
        self._before: dict[int, Handler] = {}

    def on_train_start(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        alone = trainer.world_size == 1
        if not alone or threading.current_thread() is not threading.main_thread():
            return
        self._asked = None
        self._owner = os.getpid()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a worker that was forked ends as it always did
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._asked is not None:
            raise _ending(number)
        self._asked = number
        how = "Interrupted"
        if number != signal.SIGINT:
            how = f"Asked to end by {signal.Signals(number).name}"
        _log.warning("%s: the step is finished and kept first. Once more ends it at once.", how)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._asked is not None and is_between_steps(trainer):
            save_last(trainer, self.file)
            raise _ending(self._asked)

    def on_train_end(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        if self._asked is not None:  # in the last step
            raise _ending(self._asked)
        self._restore()  # before Lightning brings back what stood before its own handlers

    def on_exception(
        self, trainer: Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore()  # Lightning would leave Ctrl-C without effect

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before = {}


def _ending(number: int) -> BaseException:
    """Return the exception that ends a process that a signal asked to end."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
