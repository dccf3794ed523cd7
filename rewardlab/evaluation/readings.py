"""Readings: what judges say of a policy while it is trained. They draw the over-optimisation curve
and decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from rewardlab.data import read_prompts
from rewardlab.errors import InputError
from rewardlab.evaluation.guard import Watched
from rewardlab.evaluation.stability import stability
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive, row_seeds

Row = dict[str, float]


class Readings(Callback):
    """Read judges, the reward and the KL every few steps, on fixed prompts and noise. Gold is read
    here, so nothing acts on it.

    Logged as `reading/<judge>`, `reading/reward` and `reading/kl` (nats an output, where the loop
    has a reference). At the end `figures` says for each judge how long it held above its start,
    with its peak and its value at equal KL.

    Args:
        judges: named gold rewards; higher has to be better.
        prompts: a file, or the prompts; by default those that the rounds hold out.
        samples: outputs a reading, the prompts in turn.
        every_n_steps: optimiser steps between readings; one is taken before the first.
        window: readings that stability averages.
        at_kl: nats at which judges are compared between runs.
        seed: of the outputs' noise, the same at every reading.
        name: what its metrics' names begin with; a run may have several Readings, each of another
            name.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> Readings({"ink": Brightness()}, prompts=["a"], every_n_steps=5).figures()
        {}
    """

    def __init__(
        self,
        judges: dict[str, Reward],
        prompts: str | Path | list[str] | None = None,
        samples: int = 128,
        every_n_steps: int = 10,
        window: int = 2,
        at_kl: Sequence[float] = (5.0, 10.0),
        seed: int = 0,
        name: str = "reading",
    ) -> None:
        taken = {"step", "reward", "kl"} & set(judges)
        if not judges or taken or every_n_steps < 1 or samples < 1:
            raise InputError(
                "Readings need judges, not named step, reward or kl, samples >= 1 and every_n_steps >= 1; "
                f"got {sorted(judges)}, {samples} and {every_n_steps}."
            )
        self.judges = judges
        self.samples = samples
        self.every_n_steps = every_n_steps
        self.window = window
        self.at_kl = tuple(at_kl)
        self.seed = seed
        self.name = name
        self.prompts = (
            prompts if prompts is None or isinstance(prompts, list) else read_prompts(prompts)
        )
        self.rows: list[Row] = []

    @property
    def state_key(self) -> str:
        """Its name in checkpoints."""
        return f"Readings {self.name}"

    def observe(self, watched: Watched) -> None:
        """Take the prompts that the rounds hold out, unless some were given."""
        self.prompts = self.prompts or list(watched.held_out_prompts or watched.prompts)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step == 0:
            self.rows = []
            self._read(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if (
            not self.rows or step - self.rows[-1]["step"] >= self.every_n_steps
        ):  # a rollout may be several steps
            self._read(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.rows and trainer.global_step > self.rows[-1]["step"]:
            self._read(trainer, module)

    @torch.no_grad()
    def _read(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.prompts:
            raise InputError(
                "Readings have no prompts: give some, or train in rounds, which hold some out."
            )
        policy = module.policy
        reference = getattr(module, "reference", None)
        reward = getattr(module, "reward", None)
        prompts = [self.prompts[i % len(self.prompts)] for i in range(self.samples)]
        was_training = policy.training
        trajectory = policy.eval().sample(
            prompts, seeds=row_seeds(derive(self.seed, "readings"), self.samples)
        )
        samples = policy.decode(trajectory)
        row = {name: scores_of(judge, samples).mean().item() for name, judge in self.judges.items()}
        if reward is not None:
            row["reward"] = scores_of(reward, samples).mean().item()
        if reference is not None:
            size = getattr(policy, "micro_batch", None) or self.samples
            parts = [trajectory[rows] for rows in torch.arange(self.samples).split(size)]
            nats = [
                (policy.log_prob(part) - reference.log_prob(part)).where(part.mask, 0).sum(1)
                for part in parts
            ]
            row["kl"] = torch.cat(nats).mean().item() * policy.dimensions
        policy.train(was_training)
        self.rows.append({"step": float(trainer.global_step), **row})
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"{self.name}/{name}": value for name, value in row.items()},
                step=trainer.global_step,
            )

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return each judge's `Stability` as plain data; nothing before there are enough readings
        with a KL.
        """
        if len(self.rows) <= self.window or "kl" not in self.rows[0]:
            return {}
        steps = [row["step"] for row in self.rows]
        kl = torch.tensor([row["kl"] for row in self.rows])
        columns = {name: torch.tensor([row[name] for row in self.rows]) for name in self.judges}
        before = "" if self.name == "reading" else f"{self.name}/"
        options = {"at_kl": self.at_kl, "window": self.window}
        return {
            before + name: stability(steps, gold, kl, **options).as_dict()
            for name, gold in columns.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
