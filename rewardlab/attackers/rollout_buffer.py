"""The rollout buffer of a trained attack, and the callbacks that save it and stop by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from rewardlab.attackers.base import StopRule, with_parts
from rewardlab.conversations import from_json, to_json
from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.unscored import checked_unless_missing
from rewardlab.training.checkpoints import save_last
from rewardlab.types import Samples, concatenate


class RolloutBuffer(Reward):
    """A reward that keeps the samples that it scores, on the CPU.

    Scores and the number of the batch are facts of the samples. A score of NaN is one that the
    reward did not give.

    Args:
        reward: scores the samples. The parts of an Attack are kept too.
        limit: most samples that are kept, the latest; all by default.
    """

    def __init__(self, reward: Reward, limit: int | None = None) -> None:
        super().__init__()
        self.reward = reward
        self.limit = limit
        self.step = 0
        self.batches: list[Samples] = []

    @torch.no_grad()
    def forward(self, samples: Samples) -> Tensor:
        if isinstance(self.reward, Attack):
            parts = checked_unless_missing(self.reward.parts(samples), samples, "Attack")
            scored = with_parts(self.reward, samples, parts)
        else:
            scored = samples.with_facts(attack=self.reward(samples))
        steps = torch.full((len(samples),), self.step)
        self.batches.append(scored.with_facts(step=steps).to("cpu"))
        self.step += 1
        self._drop_oldest()
        return scored.facts["attack"]

    def _drop_oldest(self) -> None:
        """Drop the batches that the limit does not need."""
        while self.limit is not None and sum(map(len, self.batches[1:])) >= self.limit:
            del self.batches[0]

    def samples(self) -> Samples:
        """Return the samples in the buffer.

        Raises:
            InputError: if nothing was scored.
        """
        if not self.batches:
            raise InputError(
                "The attack's loop scored nothing: the Trainer took no step, or the loop does not "
                "use its reward."
            )
        samples: Samples = concatenate(self.batches)
        return samples if self.limit is None else samples[-self.limit :]


class BufferCheckpoint(pl.Callback):
    """Write checkpoints that hold the rollout buffer, so that a resumed attack has all samples.

    Args:
        buffer: the buffer.
        file: path of the checkpoint, which the next one replaces.
        every: batches between two checkpoints.
    """

    def __init__(self, buffer: RolloutBuffer, file: Path, every: int) -> None:
        self.buffer = buffer
        self.file = file
        self.every = every

    @property
    def state_key(self) -> str:
        """Return the name of this state in checkpoints: this class's in version 0.1."""
        return "Recording"

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if _batches_done(trainer) % self.every == 0:
            save_last(trainer, self.file)

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer as lists and tensors only."""
        parts = []
        for batch in self.buffer.batches:
            facts = dict(batch.facts)
            prompts = [to_json(prompt) for prompt in batch.prompts]
            parts.append({"prompts": prompts, "outputs": batch.outputs, "facts": facts})
        return {"step": self.buffer.step, "parts": parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.buffer.step = state_dict["step"]
        batches = []
        for part in state_dict["parts"]:
            prompts = [from_json(prompt) for prompt in part["prompts"]]
            batches.append(Samples(prompts, part["outputs"], part["facts"]))
        self.buffer.batches = batches


class EarlyStop(pl.Callback):
    """Stop the training when a rule says that the samples so far are enough.

    Args:
        buffer: holds the samples so far.
        until: the rule; it is called with the samples so far.
        every: batches between two calls of the rule.
    """

    def __init__(self, buffer: RolloutBuffer, until: StopRule, every: int) -> None:
        self.buffer = buffer
        self.until = until
        self.every = every

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        is_due = _batches_done(trainer) % self.every == 0
        if not is_due:
            return
        samples = self.buffer.samples()
        scored = ~samples.facts["attack"].isnan()
        if scored.any() and self.until(samples[scored]):
            trainer.should_stop = True


def _batches_done(trainer: Trainer) -> int:
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1
