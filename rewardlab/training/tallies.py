"""Counts of what a loop's reward left unscored, in its checkpoints."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule

from rewardlab.rewards.base import Reward
from rewardlab.rewards.unscored import is_partial, restore_tallies, tallies_of
from rewardlab.training.processes import from_all_processes

KEY = "unscored"


def keep_tallies(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Write what each part of the loop's reward was asked and left unscored, by process."""
    reward = getattr(module, "reward", None)
    if isinstance(reward, Reward) and is_partial(reward):
        checkpoint[KEY] = from_all_processes(tallies_of(reward))


def restore_tallies_of(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Let the loop's reward count on from a checkpoint, so that its share is that of the whole run.

    Of another number of processes each counts on from their mean.
    """
    by_process = checkpoint.get(KEY)
    reward = getattr(module, "reward", None)
    if not by_process or not isinstance(reward, Reward):
        return
    trainer = module._trainer
    if trainer is not None and trainer.world_size == len(by_process):
        restore_tallies(reward, by_process[trainer.global_rank])
        return
    means: dict[str, list[int]] = {}
    for name in by_process[0]:
        columns = zip(*[tallies[name] for tallies in by_process], strict=True)
        means[name] = [round(sum(column) / len(by_process)) for column in columns]
    restore_tallies(reward, means)
