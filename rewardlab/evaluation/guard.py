"""The guard: beside the reward that is optimised, monitors that are not, and a stop when they part.
No gold is read here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics import kernel_distance, kernel_distance_interval
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.scoring import scores_and_members, scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples

log = logging.getLogger("rewardlab")


@dataclass(frozen=True)
class Reading:
    """One monitor at one time: `value` is worse when higher, `spread` its standard error."""

    value: float
    spread: float


@dataclass
class Watched:
    """What a guard reads: the reward that is optimised, and what it is held against."""

    reward: Reward
    prompts: Sequence[str]
    held_out: Samples | None = None
    classifier: Reward | None = None
    held_out_prompts: Sequence[str] = ()
    features: Tensor | None = field(default=None, init=False)


class Guard(Callback):
    """Evaluate the reward beside monitors every few steps, on fixed prompts and seeds, and stop
    when one gets worse.

    Monitors, each logged as `guard/<name>` beside `guard/score`: `disagreement` of the reward's
    members (standard deviation), `distance` from the reward's features of held-out targets (KID),
    and `classifier`, minus the mean score of a reward that nothing was optimised against. An alarm
    is a reading worse than the best so far by more than `tolerance` standard errors; after
    `patience` alarms in a row training stops, and the weights of the last reading without an alarm
    come back. Such signals are evidence, not proof: read the judge afterwards.

    Args:
        every_n_steps: optimiser steps between readings; one is taken before the first.
        samples: outputs a reading.
        tolerance: standard errors (of both readings) that count as worse.
        patience: alarms in a row that stop the training.
        stop: whether to stop at all, or only to log.
        watch: which monitors may raise an alarm; those that have no data are left out.
        seed: of the outputs' noise, the same at every reading.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        samples: int = 128,
        tolerance: float = 3.0,
        patience: int = 2,
        stop: bool = True,
        watch: Sequence[str] = ("distance", "classifier"),
        seed: int = 0,
    ) -> None:
        if every_n_steps < 1 or samples < 8:
            raise InputError(
                f"Guard needs every_n_steps >= 1 and samples >= 8; got {every_n_steps} and {samples}."
            )
        unknown = set(watch) - {"distance", "classifier", "disagreement"}
        if unknown:
            raise InputError(
                f"Guard watches distance, classifier and disagreement; got {sorted(unknown)}."
            )
        self.every_n_steps = every_n_steps
        self.samples = samples
        self.tolerance = tolerance
        self.patience = patience
        self.stop = stop
        self.watch = tuple(watch)
        self.seed = seed
        self.watched: Watched | None = None
        self._forget()

    def observe(self, watched: Watched) -> None:
        """Take what is to be read."""
        self.watched = watched

    def _forget(self) -> None:
        self.alarms = self._last = 0
        self.stopped_at: int | None = None
        self._best: dict[str, Reading] = {}
        self._good: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._forget()
            self._read(trainer, module)
        elif self.stopped_at is not None:  # the run was killed after the guard had stopped it
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._last:
            self._last = step
            self._read(trainer, module)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Bring the last good weights back, after EMA and whatever else leaves its own at the end
        of training.
        """
        if self.stopped_at is not None:
            for parameter, good in zip(_trained(module), self._good, strict=True):
                parameter.data.copy_(good)

    def _read(self, trainer: Trainer, module: LightningModule) -> None:
        if self.watched is None:
            raise InputError(
                "Guard has nothing to read: set `guard.watched = Watched(reward, prompts, held_out, classifier)`."
            )
        scores, readings = readings_of(module.policy, self.watched, self.samples, self.seed)
        figures = {"score": scores.mean().item()} | {
            name: reading.value for name, reading in readings.items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"guard/{name}": value for name, value in figures.items()},
                step=trainer.global_step,
            )
        worse = [
            name for name in self.watch if name in readings and self._is_worse(name, readings[name])
        ]
        self.alarms = self.alarms + 1 if worse else 0
        if not worse:
            self._good = [parameter.detach().clone() for parameter in _trained(module)]
        if self.alarms >= self.patience and self.stop:
            self.stopped_at = trainer.global_step
            trainer.should_stop = True
            log.warning(
                "Guard stops at step %d: %s got worse while the reward stood at %.3g. The last good weights come back.",
                trainer.global_step, ", ".join(worse), figures["score"],
            )  # fmt: skip

    def _is_worse(self, name: str, reading: Reading) -> bool:
        best = self._best.setdefault(name, reading)
        if reading.value < best.value:
            self._best[name] = reading
        return (
            reading.value - best.value
            > self.tolerance * (reading.spread**2 + best.spread**2) ** 0.5
        )

    def state_dict(self) -> dict[str, Any]:
        best = {name: (reading.value, reading.spread) for name, reading in self._best.items()}
        kept = {"alarms": self.alarms, "last": self._last, "stopped_at": self.stopped_at}
        return kept | {"best": best, "good": self._good}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.alarms, self._last, self.stopped_at = (
            state_dict[name] for name in ("alarms", "last", "stopped_at")
        )
        self._good = state_dict["good"]
        self._best = {name: Reading(*reading) for name, reading in state_dict["best"].items()}


@torch.no_grad()
def readings_of(
    policy: Policy, watched: Watched, samples: int, seed: int
) -> tuple[Tensor, dict[str, Reading]]:
    """Return the reward's scores [samples] of fresh outputs, and each monitor's reading of the same
    outputs.
    """
    prompts = [watched.prompts[i % len(watched.prompts)] for i in range(samples)]
    was_training = policy.training
    drawn = policy.eval().generate(prompts, seeds=row_seeds(derive(seed, "guard"), samples))
    policy.train(was_training)
    scores, members = scores_and_members(watched.reward, drawn)
    readings = {}
    if members.shape[1] > 1:
        readings["disagreement"] = _mean_reading(members.std(1))
    if watched.classifier is not None:
        readings["classifier"] = _mean_reading(-scores_of(watched.classifier, drawn))
    if watched.held_out is not None and frozen_features(watched.reward) is not None:
        if watched.features is None:
            watched.features = features_in_batches(watched.reward, watched.held_out)
        own = features_in_batches(watched.reward, drawn)
        low, high = kernel_distance_interval(own, watched.features, seed=seed)
        readings["distance"] = Reading(
            kernel_distance(own, watched.features), (high - low) / (2 * 1.96)
        )
    return scores, readings


@torch.no_grad()
def features_in_batches(reward: Reward, samples: Samples, batch_size: int = 256) -> Tensor:
    """Return the reward's features, flattened to [B, D], on the CPU."""
    device = next((parameter.device for parameter in reward.parameters()), torch.device("cpu"))
    parts = [samples[i : i + batch_size].to(device) for i in range(0, len(samples), batch_size)]
    return torch.cat([reward.features(part).flatten(1).float().cpu() for part in parts])


def _mean_reading(values: Tensor) -> Reading:
    return Reading(values.mean().item(), (values.std() / len(values) ** 0.5).item())


def _trained(module: LightningModule) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
