"""Trainers as stages and commands use them: with clear errors, and Ctrl-C between two steps."""

from __future__ import annotations

import logging
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

from rewardlab.errors import InputError

_log = logging.getLogger("rewardlab")

SILENT = dict.fromkeys(
    ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
)
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
    except MisconfigurationException as error:
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


class Interruptible(pl.Callback):
    """Let Ctrl-C end the training after the current step, with a checkpoint.

    A second Ctrl-C ends it at once. A checkpoint between two steps is one from which a resumed run
    equals one that was never stopped. This callback comes after `Resumable` among the callbacks. It
    has no effect where several processes train, outside the main thread, and where Ctrl-C is
    ignored, as by a shell's background jobs.

    Args:
        file: path of the checkpoint.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._asked = False
        self._installed = False
        self._before: Handler = None

    def on_train_start(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        alone = trainer.world_size == 1
        main_thread = threading.current_thread() is threading.main_thread()
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if alone and main_thread and not ignored:
            self._asked = False
            self._installed = True
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        _log.warning("Interrupted: the step is finished and kept first. Once more ends it at once.")

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._asked:
            trainer.save_checkpoint(self.file)
            raise KeyboardInterrupt

    def on_fit_end(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        if self._asked:  # in the last step
            raise KeyboardInterrupt
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore()  # Lightning would leave Ctrl-C without effect

    def _restore(self) -> None:
        if not self._installed:
            return
        handler = signal.default_int_handler if self._before is None else self._before
        signal.signal(signal.SIGINT, handler)
        self._installed = False
