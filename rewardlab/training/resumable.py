"""What Lightning's checkpoints lack for a resumed run to equal one that was never stopped."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from rewardlab.training.metrics_file import RowsToKeep, begin_rows, csv_folders, keep_rows
from rewardlab.training.processes import from_all_processes

_log = logging.getLogger("rewardlab")


class Resumable(pl.Callback):
    """Keep random states in checkpoints, restore them on resuming, and cut back metrics.csv.

    The position in the data is `rewardlab.data.ResumableLoader`'s own. A CSVLogger deletes an
    earlier metrics.csv when it starts. So the file has a second name, `.metrics.csv.kept`, beside
    it, from which a resumed run takes the rows that stood at the checkpoint, and those before its
    first step. A checkpoint written in the middle of a step, by an exception, counts that step as
    not done.

    Means over an epoch that Lightning takes itself (`self.log(..., on_epoch=True)` in
    `training_step`) cover only the part after the resumption, as Lightning does not save their
    sums.

    Example:
        >>> from rewardlab.training import Resumable
        >>> from rewardlab.training.trainers import SILENT
        >>> trainer = pl.Trainer(callbacks=[Resumable()], accelerator="cpu", **SILENT)
        >>> sorted(Resumable().state_dict()["random"][0])
        ['cuda', 'numpy', 'python', 'torch']
    """

    def __init__(self) -> None:
        self._before_step: dict[str, Any] | None = None
        self._to_restore: list[dict[str, Any]] | None = None
        self._row_counts: list[int] = []
        self._has_begun = False

    def state_dict(self) -> dict[str, Any]:
        """Return every rank's random states, of tensors and numbers only."""
        return {"random": from_all_processes(random_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._to_restore = state_dict["random"]
        self._row_counts = state_dict.get("rows", [])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        _settle_epoch(checkpoint["loops"]["fit_loop"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._has_begun = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_rows(trainer)
        if self._to_restore is None:
            return
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            # else Lightning would skip a step for a validation that is not due
            trainer.fit_loop.epoch_loop.restarting = False
        self._restore(self._to_restore, trainer)
        self._to_restore = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the rows back of a run that was killed after its last step.

        Resumed, it has nothing to train, and Lightning calls no `on_train_start`.
        """
        self._begin_rows(trainer)
        self._to_restore = None

    def _begin_rows(self, trainer: pl.Trainer) -> None:
        """Cut each metrics.csv back to what the checkpoint knows, once in a fit."""
        if self._has_begun:
            return
        self._has_begun = True
        progress = trainer.fit_loop.epoch_loop.batch_progress
        # rows are counted in batches that stepped, and a batch may take several optimizer steps
        step = min(trainer.global_step, progress.total.ready)
        for index, (folder, logger) in enumerate(csv_folders(trainer)):
            keep = None
            if self._to_restore is not None:
                count = self._row_counts[index] if index < len(self._row_counts) else 0
                keep = RowsToKeep(count, step)
            begin_rows(folder, logger, keep)

    def _restore(self, states: list[dict[str, Any]], trainer: pl.Trainer) -> None:
        """Restore this rank's random states, if there are as many ranks as there were."""
        if len(states) == trainer.world_size:
            restore_random_states(states[trainer.global_rank])
            return
        _log.warning(
            "The checkpoint holds random states of %d processes, now there are %d: they start anew",
            len(states),
            trainer.world_size,
        )

    def on_train_batch_start(self, *_: Any) -> None:
        self._before_step = random_states()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        counts = [keep_rows(folder, logger) for folder, logger in csv_folders(trainer)]
        checkpoint["callbacks"].setdefault(self.state_key, {})["rows"] = counts
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        between_steps = progress.processed == progress.ready
        if between_steps or self._before_step is None:
            return
        states = from_all_processes(self._before_step)
        checkpoint["callbacks"][self.state_key]["random"] = states
        _undo_step(checkpoint["loops"]["fit_loop"])


def _settle_epoch(loop: dict[str, Any]) -> None:
    """Make a checkpoint of the end of training, or of an epoch, go on where the data stopped.

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
    batches = loop["epoch_loop.batch_progress"]
    for counts in (batches["current"], batches["total"]):
        counts.update(dict.fromkeys(counts, counts["completed"]))
    for state in loop["state_dict"].get("combined_loader", []):
        if "batches" in state:
            state["batches"] -= 1


def random_states() -> dict[str, Any]:
    """Return the global random states of Python, NumPy, torch and each CUDA device.

    They are made of tensors and numbers only.
    """
    version, internal_state, next_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    assert numpy_state["bit_generator"] == "MT19937"  # what NumPy's global generator always is
    twister = numpy_state["state"]
    key = torch.from_numpy(twister["key"].astype(np.int64))
    position = int(twister["pos"])
    has_gauss = int(numpy_state["has_gauss"])
    gauss = float(numpy_state["gauss"])
    uses_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": (version, torch.tensor(internal_state), next_gauss),
        "numpy": (key, position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if uses_cuda else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the states that `random_states` returned.

    Example:
        >>> states = random_states()
        >>> numbers = random.random(), np.random.rand(), torch.rand(1)
        >>> restore_random_states(states)
        >>> numbers == (random.random(), np.random.rand(), torch.rand(1))
        True
    """
    version, internal_state, next_gauss = states["python"]
    random.setstate((version, tuple(internal_state.tolist()), next_gauss))
    key, position, has_gauss, gauss = states["numpy"]
    numpy_key = key.cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", numpy_key, position, has_gauss, gauss))
    torch.set_rng_state(states["torch"].cpu())
    cuda_states: list[Tensor] = states["cuda"][: torch.cuda.device_count()]
    for device, state in enumerate(cuda_states):
        torch.cuda.set_rng_state(state.cpu(), device)
