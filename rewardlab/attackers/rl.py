"""RLAttacker: an adversary that is trained on the attack reward, as in Adv-RM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger

from rewardlab.attackers.base import StopRule, TrainedAttacker, scored_only, with_scores
from rewardlab.attackers.rollout_buffer import BufferCheckpoint, EarlyStop, RolloutBuffer
from rewardlab.conversations import Prompt
from rewardlab.data.prompt_data import Prompts
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Generator, Policy
from rewardlab.rewards import Reward
from rewardlab.seeds import derive
from rewardlab.training.base import trainable
from rewardlab.training.checkpoints import LastCheckpoint, checkpoint_to_resume
from rewardlab.training.resumable import Resumable
from rewardlab.training.trainers import Interruptible, add_callbacks, make_trainer
from rewardlab.types import Samples


@dataclass
class RLAttacker(TrainedAttacker):
    """Train a fresh adversary on the attack reward, and return what it sampled.

    Adv-RM, arXiv 2504.06141, section 3. The adversary is a copy of the policy, trained by an
    ordinary loop. The copy shares the policy's frozen weights, so a low-rank adapter costs little
    memory. The policy and the rewards do not change.

    A rollout buffer keeps every sample that the loop scores, since early samples are as good
    attacks as late ones. The fact "step" of a sample is the number of its batch.

    Args:
        loop: makes the LightningModule from the adversary and the reward, such as `PPO`. It is
            called with `seed=`.
        trainer: makes the Trainer, which says how long to train. RLAttacker sets its logger,
            checkpoints and model summary.
        batch_size: prompts a step.
        collect: "logged" returns the rollout buffer. "fresh" returns new samples of the trained
            adversary.
        per_prompt: fresh samples of each prompt.
        limit: size of the rollout buffer in samples; it keeps the latest. By default it keeps all.
            Images take memory, so set it for them.
        folder: folder of metrics and checkpoints, from which a killed attack resumes. By default
            nothing is written.
        checkpoint_every: batches between two checkpoints; one is kept every two minutes as well.
        until: early stopping. It is called every `ask_every` batches with the samples so far;
            training stops when it returns True. By default training goes on to the Trainer's end.
        ask_every: batches between two calls of `until`.

    Raises:
        InputError: on use, if the policy cannot be trained or has nothing to train, or the loop
            scores nothing.
    """

    loop: Callable[[Policy, Reward], LightningModule]
    trainer: Callable[[], Trainer] = Trainer
    batch_size: int = 16
    collect: Literal["logged", "fresh"] = "logged"
    per_prompt: int = 1
    limit: int | None = None
    folder: str | Path | None = None
    checkpoint_every: int = 100
    until: StopRule | None = None
    ask_every: int = 10

    def __call__(
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        adversary = fresh_copy(policy)
        buffer = RolloutBuffer(reward, self.limit)
        make_loop: Callable[..., LightningModule] = self.loop  # its type, for configs, has no seed
        module = make_loop(adversary, buffer, seed=derive(seed, "attack"))
        data = Prompts(list(prompts), self.batch_size, derive(seed, "attack prompts"))
        self._fit(module, buffer, data)
        if self.collect == "logged":
            return scored_only(buffer.samples())
        with torch.no_grad():
            fresh_seed = derive(seed, "fresh")
            samples = candidates(adversary.eval(), prompts, self.per_prompt, fresh_seed)
            return scored_only(with_scores(reward, samples))

    def _fit(self, module: LightningModule, buffer: RolloutBuffer, data: Prompts) -> None:
        """Train the loop, and resume from the folder's last checkpoint if there is one."""
        trainer = make_trainer(self.trainer, **self._trainer_options())
        add_callbacks(trainer, self._callbacks(buffer))
        checkpoint = None
        if self.folder is not None:
            checkpoint = checkpoint_to_resume(Path(self.folder))
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    def _last_checkpoint(self) -> Path | None:
        """Return the path of the checkpoint, or None if nothing is written."""
        return None if self.folder is None else Path(self.folder) / "last.ckpt"

    def _trainer_options(self) -> dict[str, Any]:
        """Return what RLAttacker sets of the Trainer."""
        options: dict[str, Any] = {
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": False,
        }
        if self.folder is not None:
            folder = Path(self.folder)
            options["logger"] = CSVLogger(folder, name="", version="")
            options["default_root_dir"] = folder
            options["log_every_n_steps"] = 10
        return options

    def _callbacks(self, buffer: RolloutBuffer) -> list[pl.Callback]:
        """Return the callbacks of a fit: checkpoints, early stopping and resuming."""
        callbacks: list[pl.Callback] = []
        checkpoint = self._last_checkpoint()
        if checkpoint is not None:
            callbacks.append(BufferCheckpoint(buffer, checkpoint, self.checkpoint_every))
        if self.until is not None:
            callbacks.append(EarlyStop(buffer, self.until, self.ask_every))
        if checkpoint is not None:
            callbacks.append(Resumable())
            callbacks.append(LastCheckpoint(checkpoint))
            callbacks.append(Interruptible(checkpoint))
        return callbacks


def fresh_copy(policy: Generator) -> Policy:
    """Return a copy of the policy to train, which shares the weights that are not trained.

    Raises:
        InputError: if there is nothing to train.

    Example:
        >>> from rewardlab.policies.causal_lm import CausalLMPolicy
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), lora_rank=2)
        >>> pairs = list(zip(policy.parameters(), fresh_copy(policy).parameters()))
        >>> all((own is other) != own.requires_grad for own, other in pairs)
        True
    """
    if not any(weight.requires_grad for weight in policy.parameters()):
        raise InputError(
            "RLAttacker trains a copy of the policy, and this "
            f"{type(policy).__name__} has nothing to train. Was it frozen, as a reference is? Give "
            "the policy itself, or one with lora_rank."
        )
    frozen_weights = {
        id(weight): weight for weight in policy.parameters() if not weight.requires_grad
    }
    return deepcopy(trainable(policy), frozen_weights).train()
