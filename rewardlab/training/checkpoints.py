"""Checkpoints between two steps, and the one that a killed training goes on from."""

from __future__ import annotations

import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint

from rewardlab.runs.layout import EARLIER_CHECKPOINT, LAST_CHECKPOINT
from rewardlab.storage.atomic import put_in_place

log = logging.getLogger("rewardlab")

MINUTES = 2.0  # between two checkpoints, at most
# What reading a checkpoint that is cut or damaged raises.
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError)


class LastCheckpoint(Checkpoint):
    """Keep the last checkpoint between two steps, every so many steps and minutes.

    The checkpoint before is kept as earlier.ckpt beside it. A checkpoint holds whether a callback
    had ended the training; a resumed training stays ended then. Nothing is drawn, so a result does
    not depend on when checkpoints are kept.

    Args:
        file: path of the checkpoint.
        steps: optimizer steps between two checkpoints; none by default.
        minutes: minutes between two checkpoints.
        epochs: keep one at the end of each epoch too, when callbacks have said whether it is the
            last.
    """

    def __init__(
        self,
        file: Path,
        steps: int | None = None,
        minutes: float = MINUTES,
        epochs: bool = False,
    ) -> None:
        self.file = file
        self.steps = steps
        self.minutes = minutes
        self.epochs = epochs
        self._saved_step = 0
        self._saved_time = 0.0
        self._was_stopped = False

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint["callbacks"].get(self.state_key, {})
        self._was_stopped = state.get("stopped", False)
        if self._was_stopped:
            _end_epoch(checkpoint["loops"]["fit_loop"])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["callbacks"][self.state_key] = {"stopped": trainer.should_stop}

    def on_fit_start(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        if self._was_stopped:
            trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        self._note(trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if is_between_steps(trainer) and self._is_due(trainer):
            save_last(trainer, self.file)
            self._note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        if self.epochs:
            save_last(trainer, self.file)
            self._note(trainer)

    def _note(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()

    def _is_due(self, trainer: Trainer) -> bool:
        """Tell whether a checkpoint is due; every process gets the same answer."""
        step = trainer.global_step
        if step == self._saved_step:
            return False
        is_due = time.monotonic() - self._saved_time >= 60 * self.minutes
        if self.steps is not None:
            is_due |= step // self.steps > self._saved_step // self.steps
        if trainer.world_size > 1:
            is_due = trainer.strategy.broadcast(is_due)
        return is_due


def is_between_steps(trainer: Trainer) -> bool:
    """Tell, at the start of a batch, whether no gradients are accumulated yet."""
    batches_begun: int = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return (batches_begun - 1) % trainer.accumulate_grad_batches == 0


def save_last(trainer: Trainer, file: Path) -> None:
    """Write a checkpoint whole, and keep the one before it as earlier.ckpt."""
    partial = file.with_name(f".{file.name}.partial")
    trainer.save_checkpoint(partial)
    if trainer.is_global_zero:
        if file.exists():
            os.replace(file, file.with_name(EARLIER_CHECKPOINT))
        put_in_place(partial, file)


class Kept(NamedTuple):
    """A checkpoint that can be loaded, in the order in which it is gone on from.

    Those that `LastCheckpoint` writes come before others, since an epoch may have ended or not when
    Lightning's ModelCheckpoint wrote; then the steps count, and never the clock alone.
    """

    is_ours: bool
    step: int
    is_last: bool
    written: int
    path: Path


def checkpoint_to_resume(folder: Path, besides: str | None = None) -> Path | None:
    """Return the checkpoint of a folder that is furthest on and can be loaded, or None.

    One that is cut or damaged is named in a warning, together with what the run goes on from.

    Args:
        folder: of checkpoints.
        besides: name of one that is not for going on from.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> torch.save({"global_step": 3}, folder / "earlier.ckpt")
        >>> _ = (folder / "last.ckpt").write_bytes(b"cut")
        >>> checkpoint_to_resume(folder).name
        'earlier.ckpt'
    """
    checkpoints = []
    damaged = []
    paths = [path for path in folder.glob("*.ckpt") if path.name != besides]
    for path in paths:
        step = _step_of(path)
        if step is None:
            damaged.append(path)
        else:
            checkpoints.append(_kept(path, step))
    furthest = max(checkpoints, default=None)
    for path in damaged:
        _warn(path, furthest)
    return None if furthest is None else furthest.path


def _kept(path: Path, step: int) -> Kept:
    """Return what a checkpoint that can be loaded is ordered by."""
    is_last = path.name == LAST_CHECKPOINT
    is_ours = is_last or path.name == EARLIER_CHECKPOINT
    return Kept(is_ours, step, is_last, path.stat().st_mtime_ns, path)


def _warn(path: Path, furthest: Kept | None) -> None:
    """Say that a checkpoint cannot be loaded, and what is done about it."""
    instead = "no other stands beside it"
    if furthest is not None:
        instead = f"{furthest.path.name} of step {furthest.step} is taken instead"
    log.warning("The checkpoint %s cannot be loaded: cut or damaged; %s.", path, instead)


def _step_of(path: Path) -> int | None:
    """Return a checkpoint's optimizer steps, or None if it cannot be loaded.

    One that several processes wrote is a folder, which Lightning alone can read; its steps count
    as none.
    """
    if path.is_dir():
        return 0
    try:
        checkpoint = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        return int(checkpoint["global_step"])
    except (*UNREADABLE, TypeError):
        return None


def _end_epoch(loop: dict[str, Any]) -> None:
    """Count the epoch that a callback had ended as ended."""
    for counts in (loop["epoch_progress"]["current"], loop["epoch_progress"]["total"]):
        counts["processed"] = counts["ready"]
        counts["completed"] = counts["ready"]
