"""Readings: a callback that records what judges say of a policy while it is trained.

The figures draw the over-optimization curve. Nothing acts on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.evaluation.monitors import (
    MonitoredPolicy,
    TrainedLoop,
    in_eval_mode,
    log_figures,
)
from rewardlab.evaluation.outlier_monitor import OutlierMonitor
from rewardlab.evaluation.prompts import in_turn
from rewardlab.evaluation.stability import stability
from rewardlab.policies import Policy
from rewardlab.policies.reference import first_reference
from rewardlab.rewards import Reward
from rewardlab.rewards.novelty import Outliers
from rewardlab.rewards.scoring import judged, scored_part, scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.prompts import read_prompts
from rewardlab.types import Samples, Trajectory

Row = dict[str, float]
RESERVED_NAMES = {"step", "reward", "kl", "outliers"}


class Readings(Callback):
    """Read judges, the reward and the KL every few steps, on fixed prompts and noise.

    Gold is read here, so nothing acts on it. The figures are logged as `reading/<judge>`,
    `reading/reward` and `reading/kl` (nats an output, where the loop has a reference; from the one
    that it began with, whatever took its place) and, where it is given how, `reading/outliers`
    (MOP, a share), and their standard errors as `reading_error/<name>`. At the end `figures` says
    for each judge how long it held above its start, with its peak and its value at equal KL.

    Args:
        judges: named gold rewards; higher has to be better.
        prompts: a file, or the prompts. By default, those that the rounds hold out.
        samples: number of outputs a reading, the prompts in turn.
        every_n_steps: optimizer steps between readings; one is taken before the first.
        window: number of readings that stability averages.
        at_kl: nats at which judges are compared between runs.
        seed: seed of the outputs' noise, the same at every reading.
        name: prefix of the metrics' names. A run may have several Readings, each of another name.
        outliers: how outliers are counted; they are not by default.

    Attributes:
        rows: the readings so far, each with "step", the judges, "reward" and "kl".

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> Readings({"ink": Brightness()}, prompts=["a"], every_n_steps=5).figures()
        {}
    """

    def __init__(
        self,
        judges: dict[str, Reward],
        prompts: str | Path | list[Prompt] | None = None,
        samples: int = 128,
        every_n_steps: int = 10,
        window: int = 2,
        at_kl: Sequence[float] = (5.0, 10.0),
        seed: int = 0,
        name: str = "reading",
        outliers: OutlierMonitor | None = None,
    ) -> None:
        taken = RESERVED_NAMES & set(judges)
        if not judges or taken or every_n_steps < 1 or samples < 1:
            raise InputError(
                "Readings need judges, not named step, reward, kl or outliers, samples >= 1 and "
                f"every_n_steps >= 1; got {sorted(judges)}, {samples} and {every_n_steps}."
            )
        if isinstance(prompts, str | Path):
            prompts = read_prompts(prompts)
        self.judges = judges
        self.samples = samples
        self.every_n_steps = every_n_steps
        self.window = window
        self.at_kl = tuple(at_kl)
        self.seed = seed
        self.name = name
        self.outliers = outliers
        self._outlier_judge: Outliers | None = None
        self.prompts = prompts
        self.rows: list[Row] = []

    @property
    def state_key(self) -> str:
        """The name of these readings in checkpoints."""
        return f"Readings {self.name}"

    def observe(self, watched: MonitoredPolicy) -> None:
        """Take the prompts that the rounds hold out, unless the readings have prompts."""
        if not self.prompts:
            self.prompts = list(watched.held_out_prompts or watched.prompts)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the first reading."""
        if trainer.global_step == 0:
            self.rows = []
            self._read(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Take a reading if the last is `every_n_steps` ago; a rollout may be several steps."""
        if not self.rows or self._steps_since_reading(trainer) >= self.every_n_steps:
            self._read(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Take a last reading, unless the last step has one."""
        if self.rows and self._steps_since_reading(trainer) > 0:
            self._read(trainer, module)

    def _steps_since_reading(self, trainer: Trainer) -> float:
        return trainer.global_step - self.rows[-1]["step"]

    @torch.no_grad()
    def _read(self, trainer: Trainer, module: LightningModule) -> None:
        """Append a row of figures, and log it."""
        if not self.prompts:
            raise InputError(
                "Readings have no prompts: give some, or train in rounds, which hold some out."
            )
        loop = cast(TrainedLoop, module)
        with in_eval_mode(loop.policy):
            columns = self._columns_of(loop, in_turn(self.prompts, self.samples))
        figures = {name: column.mean().item() for name, column in columns.items()}
        self.rows.append({"step": float(trainer.global_step), **figures})
        log_figures(trainer, self.name, figures)
        if self.samples > 1:
            log_figures(trainer, f"{self.name}_error", _errors(columns))

    def _columns_of(self, loop: TrainedLoop, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Return the scores [B] of each judge and of the reward, and the nats from the reference.

        A judge that leaves outputs out has fewer. Their means are the readings; those of the nats
        are the KL.
        """
        seeds = row_seeds(derive(self.seed, "readings"), self.samples)
        trajectory = loop.policy.sample(prompts, seeds=seeds)
        samples = loop.policy.decode(trajectory)
        columns = {name: _scores(judge, samples) for name, judge in self.judges.items()}
        if loop.reward is not None:
            columns["reward"] = _scores(loop.reward, samples)
        if self.outliers is not None:
            if self._outlier_judge is None:
                self._outlier_judge = self.outliers.fit(loop, self.prompts or prompts)
            columns["outliers"] = -scores_of(self._outlier_judge, samples)
        if loop.reference is not None:
            first = first_reference(loop.reference)
            columns["kl"] = _log_ratios(loop.policy, first, trajectory) * loop.policy.dimensions
        return columns

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return each judge's `Stability` as plain data.

        It is empty before there are enough readings with a KL.
        """
        if len(self.rows) <= self.window or "kl" not in self.rows[0]:
            return {}
        steps = [row["step"] for row in self.rows]
        kl = self._column("kl")
        prefix = "" if self.name == "reading" else f"{self.name}/"
        figures = {}
        for name in self.judges:
            gold = self._column(name)
            curve = stability(steps, gold, kl, at_kl=self.at_kl, window=self.window)
            figures[prefix + name] = curve.as_dict()
        return figures

    def _column(self, name: str) -> Tensor:
        return torch.tensor([row[name] for row in self.rows])

    def state_dict(self) -> dict[str, Any]:
        """Return the readings so far, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.rows = state_dict["rows"]


def _scores(judge: Reward, samples: Samples) -> Tensor:
    """Return the scores of the samples that a judge scores."""
    return scored_part(samples, judged(judge, samples), "outputs of a reading").scores


def _errors(columns: dict[str, Tensor]) -> Row:
    """Return the standard error of each column's mean."""
    return {name: column.std().item() / len(column) ** 0.5 for name, column in columns.items()}


def _log_ratios(policy: Policy, reference: Policy, trajectory: Trajectory) -> Tensor:
    """Return log π/π_ref of whole outputs, [B], in parts of the policy's micro batch."""
    size = policy.micro_batch or len(trajectory)
    ratios = []
    for start in range(0, len(trajectory), size):
        part = trajectory[start : start + size]
        ratio = policy.log_prob(part) - reference.log_prob(part)
        ratios.append(ratio.where(part.mask, 0).sum(1))
    return torch.cat(ratios)
