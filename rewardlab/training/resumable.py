"""What Lightning's checkpoints lack for a resumed run to equal one that was never stopped."""

from __future__ import annotations

import csv
import io
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from rewardlab.storage.atomic import write_atomically

_log = logging.getLogger("rewardlab")


class Resumable(pl.Callback):
    """Keep random states in checkpoints, restore them on resuming, and cut metrics.csv back to the
    checkpoint's step.

    The position in the data is `rewardlab.data.ResumableLoader`'s own. A CSVLogger deletes an
    earlier metrics.csv when it starts; so the file has a second name, `.metrics.csv.kept`, beside
    it, from which a resumed run takes the rows before its first step. A checkpoint written in the
    middle of a step, by an exception, counts that step as not done.

    Means over an epoch that Lightning takes itself (`self.log(..., on_epoch=True)` in
    `training_step`) cover only the part after the resumption, as Lightning does not save their
    sums.

    Example:
        >>> from rewardlab.training import Resumable
        >>> trainer = pl.Trainer(callbacks=[Resumable()], logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> sorted(Resumable().state_dict()["random"][0])
        ['cuda', 'numpy', 'python', 'torch']
    """

    def __init__(self) -> None:
        self._before_step: dict[str, Any] | None = None
        self._to_restore: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return every rank's random states, of tensors and numbers only."""
        return {"random": _from_all_ranks(random_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._to_restore = state_dict["random"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        _settle_epoch(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # rows are counted in batches that stepped: fewer than optimiser steps if a batch takes
        # several
        rows = min(trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.total.ready)
        for logger in _csv_loggers(trainer):
            _begin_rows(logger, rows if self._to_restore else None)
        if self._to_restore is None:
            return
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            trainer.fit_loop.epoch_loop.restarting = (
                False  # Lightning would skip a step for a validation that is not due
            )
        if len(self._to_restore) == trainer.world_size:
            restore_random_states(self._to_restore[trainer.global_rank])
        else:
            saved = len(self._to_restore)
            now = trainer.world_size
            _log.warning(
                "The checkpoint holds random states of %d processes, now there are %d: they start anew",
                saved,
                now,
            )
        self._to_restore = None

    def on_train_batch_start(self, *_: Any) -> None:
        self._before_step = random_states()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in _csv_loggers(trainer):
            _keep(Path(logger.log_dir))
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        if progress.processed == progress.ready or self._before_step is None:
            return
        checkpoint["callbacks"][self.state_key] = {"random": _from_all_ranks(self._before_step)}
        _undo_step(checkpoint["loops"]["fit_loop"])


def _settle_epoch(loop: dict[str, Any]) -> None:
    """Make a checkpoint of the end of training or of an epoch one that goes on where the data
    stopped.

    Under `max_steps` Lightning 2.6.6 takes an epoch that the limit cut short for a finished one,
    and after one that was finished it counts another that never was.
    """
    epoch = loop["epoch_progress"]
    batches = loop["epoch_loop.batch_progress"]
    if epoch["current"]["processed"] != epoch["current"]["ready"]:
        return
    for counts in (epoch["current"], epoch["total"]):
        counts["processed"] -= not batches["is_last_batch"]
        counts["completed"] = counts["processed"]
    if batches["is_last_batch"]:
        batches["current"] = dict.fromkeys(batches["current"], 0)


def _undo_step(loop: dict[str, Any]) -> None:
    """Count a step that was begun as not begun, and its batch as not handed out."""
    for counts in (
        loop["epoch_loop.batch_progress"]["current"],
        loop["epoch_loop.batch_progress"]["total"],
    ):
        counts.update(dict.fromkeys(counts, counts["completed"]))
    for state in loop["state_dict"].get("combined_loader", []):
        if "batches" in state:
            state["batches"] -= 1


def random_states() -> dict[str, Any]:
    """Return the global random states of Python, NumPy, torch and each CUDA device, as tensors and
    numbers.
    """
    version, words, gauss = random.getstate()
    kind, key, position, has_gauss, cached = np.random.get_state()
    assert kind == "MT19937"  # what NumPy's global generator always is
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (
            torch.from_numpy(key.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set what `random_states` returned.

    Example:
        >>> states = random_states()
        >>> drawn = random.random(), np.random.rand(), torch.rand(1)
        >>> restore_random_states(states)
        >>> drawn == (random.random(), np.random.rand(), torch.rand(1))
        True
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    key, *rest = states["numpy"]
    np.random.set_state(("MT19937", key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    cuda: list[Tensor] = [state.cpu() for state in states["cuda"]]
    for device, state in enumerate(cuda[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)


def _from_all_ranks(states: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all ranks, in order, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [states]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, states)
    return gathered


def _csv_loggers(trainer: pl.Trainer) -> list[CSVLogger]:
    """Return the loggers that write metrics.csv to a local folder from this process."""
    loggers = trainer.loggers if trainer.is_global_zero and not trainer.fast_dev_run else []
    return [
        logger
        for logger in loggers
        if isinstance(logger, CSVLogger) and "://" not in logger.log_dir
    ]


def _begin_rows(logger: CSVLogger, step: int | None) -> None:
    """Start metrics.csv with the kept rows before `step` (with none if `step` is None), under both
    of its names.
    """
    folder = Path(logger.log_dir)
    kept = folder / ".metrics.csv.kept"
    current = folder / "metrics.csv"
    if step is None and current.exists():
        _keep(folder)  # the same trainer goes on fitting
        return
    header = ["step"]
    rows = []
    if step is not None and kept.exists():
        with kept.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [
                row for row in reader if (row["step"] or "").isdigit() and int(row["step"]) < step
            ]
            header = list(reader.fieldnames or header)
    text = io.StringIO()
    writer = csv.DictWriter(text, header)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(current, text.getvalue())
    logger.experiment.metrics_keys = header
    _keep(folder)


def _keep(folder: Path) -> None:
    """Give metrics.csv its second name: a link, so that no row is missed, or a copy where the file
    system has none.
    """
    current = folder / "metrics.csv"
    kept = folder / ".metrics.csv.kept"
    if not current.exists() or (kept.exists() and kept.samefile(current)):
        return
    partial = folder / ".metrics.csv.partial"
    partial.unlink(missing_ok=True)
    try:
        os.link(current, partial)
    except OSError:
        shutil.copyfile(current, partial)
    os.replace(partial, kept)
