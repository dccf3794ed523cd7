"""The adversary that is trained: Adv-RM's."""

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
from torch import Tensor

from rewardlab.attackers.base import TrainedAttacker, with_parts, with_scores
from rewardlab.data.prompt_data import Prompts
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.seeds import derive
from rewardlab.training.resumable import Resumable
from rewardlab.training.trainers import Interruptible, make_trainer
from rewardlab.types import Samples, concatenate


@dataclass
class RLAttacker(TrainedAttacker):
    """A fresh adversary, trained by an ordinary loop on the attack reward. Adv-RM, arXiv
    2504.06141, section 3.

    The adversary starts as a copy of the policy that shares its frozen weights, so a low-rank
    adapter costs little. Neither the policy nor the rewards change. Every sample that was scored on
    the way is recorded, with the fact "step" (the number of the batch), since what the adversary
    found on its way is as good as what it found last.

    Args:
        loop: makes the LightningModule from the adversary and the reward, such as `PPO`. It is
            called with `seed=`.
        trainer: makes the Trainer; it says how long. Logger, checkpoints and progress are set here.
        batch_size: prompts a step.
        collect: "logged" returns all that was scored; "fresh" new samples of the trained adversary.
        per_prompt: how many fresh samples of each prompt.
        limit: most samples that are kept of what was logged, the latest; images take memory, so set
            it for them.
        folder: where metrics and checkpoints go, so that a killed attack goes on from the last;
            nowhere by default.
        checkpoint_every: batches between checkpoints.
        until: is asked every `ask_every` batches with all that was recorded; the adversary has
            found enough once it says so, and its training ends. By default it trains as long as the
            Trainer says.
        ask_every: batches between two askings.

    Raises:
        InputError: on use, if the policy has nothing to train.
    """

    loop: Callable[[Policy, Reward], LightningModule]
    trainer: Callable[[], Trainer] = Trainer
    batch_size: int = 16
    collect: Literal["logged", "fresh"] = "logged"
    per_prompt: int = 1
    limit: int | None = None
    folder: str | Path | None = None
    checkpoint_every: int = 100
    until: Callable[[Samples], bool] | None = None
    ask_every: int = 10

    def __call__(
        self, policy: Policy, reward: Reward, prompts: Sequence[str], seed: int
    ) -> Samples:
        adversary = fresh_copy(policy)
        record = Record(reward, self.limit)
        module = self.loop(adversary, record, seed=derive(seed, "attack"))
        self._fit(
            module, record, Prompts(list(prompts), self.batch_size, derive(seed, "attack prompts"))
        )
        if self.collect == "logged":
            return record.samples()
        with torch.no_grad():
            return with_scores(
                reward,
                candidates(adversary.eval(), prompts, self.per_prompt, derive(seed, "fresh")),
            )

    def _fit(self, module: LightningModule, record: Record, prompts: Prompts) -> None:
        """Train, and go on from the last checkpoint in the folder if there is one."""
        options: dict[str, Any] = {
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "enable_checkpointing": False,
        }
        asking = [] if self.until is None else [Enough(record, self.until, self.ask_every)]
        if self.folder is None:
            trainer = make_trainer(self.trainer, **options, logger=False)
            trainer.callbacks.extend(asking)
            trainer.fit(module, datamodule=prompts)
            return
        folder = Path(self.folder)
        last = folder / "last.ckpt"
        trainer = make_trainer(
            self.trainer,
            **options,
            logger=CSVLogger(folder, name="", version=""),
            default_root_dir=folder,
            log_every_n_steps=10,
        )
        added = [
            Recording(record, last, self.checkpoint_every),
            *asking,
            Resumable(),
            Interruptible(last),
        ]
        trainer.callbacks.extend(added)  # beside its own
        trainer.fit(
            module, datamodule=prompts, ckpt_path=last if last.exists() else None, weights_only=True
        )


def fresh_copy(policy: Policy) -> Policy:
    """Return a copy to train that shares the weights that are not trained.

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
            f"RLAttacker trains a copy of the policy, and this {type(policy).__name__} has nothing to train. Was it frozen, as "
            "a reference is? Give the policy itself, or one with lora_rank."
        )
    return deepcopy(
        policy, {id(weight): weight for weight in policy.parameters() if not weight.requires_grad}
    ).train()


class Record(Reward):
    """A reward that keeps what it scores, on the CPU, with scores and the number of the batch as
    facts.

    Args:
        reward: scores; an Attack's parts are kept too.
        limit: most samples that are kept, the latest; all by default.
    """

    def __init__(self, reward: Reward, limit: int | None = None) -> None:
        super().__init__()
        self.reward = reward
        self.limit = limit
        self.step = 0
        self.parts: list[Samples] = []

    @torch.no_grad()
    def forward(self, samples: Samples) -> Tensor:
        if isinstance(self.reward, Attack):
            seen = with_parts(self.reward, samples, self.reward.parts(samples))
        else:
            seen = samples.with_facts(attack=self.reward(samples))
        self.parts.append(seen.with_facts(step=torch.full((len(samples),), self.step)).to("cpu"))
        self.step += 1
        while self.limit is not None and sum(map(len, self.parts[1:])) >= self.limit:
            del self.parts[0]
        return seen.facts["attack"]

    def samples(self) -> Samples:
        """Return what was kept.

        Raises:
            InputError: if nothing was scored.
        """
        if not self.parts:
            raise InputError(
                "The attack's loop scored nothing: the Trainer took no step, or the loop does not use its reward."
            )
        kept: Samples = concatenate(self.parts)
        return kept if self.limit is None else kept[-self.limit :]


class Recording(pl.Callback):
    """Write checkpoints with the record in them, so that a resumed attack has all that it found.

    Args:
        record: what is kept.
        file: the checkpoint, which the next one replaces.
        every: batches between checkpoints.
    """

    def __init__(self, record: Record, file: Path, every: int) -> None:
        self.record = record
        self.file = file
        self.every = every

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % self.every == 0:
            trainer.save_checkpoint(self.file)

    def state_dict(self) -> dict[str, Any]:
        """Return the record as lists and tensors only."""
        parts = [
            {"prompts": list(part.prompts), "outputs": part.outputs, "facts": dict(part.facts)}
            for part in self.record.parts
        ]
        return {"step": self.record.step, "parts": parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record.step = state_dict["step"]
        self.record.parts = [Samples(**part) for part in state_dict["parts"]]


class Enough(pl.Callback):
    """End the training once enough was found.

    Args:
        record: what was found so far.
        until: says whether that is enough.
        every: batches between two askings.
    """

    def __init__(self, record: Record, until: Callable[[Samples], bool], every: int) -> None:
        self.record = record
        self.until = until
        self.every = every

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % self.every == 0 and self.until(
            self.record.samples()
        ):
            trainer.should_stop = True
