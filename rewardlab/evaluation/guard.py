"""Guard: a callback that stops training when monitors get worse while the reward rises.

The monitors are not optimized. No gold reward is read here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.evaluation.alarms import is_worse
from rewardlab.evaluation.monitors import (
    MonitoredPolicy,
    Reading,
    TrainedLoop,
    log_figures,
    readings_of,
    reference_for_norms,
)
from rewardlab.evaluation.outlier_monitor import OutlierMonitor
from rewardlab.networks.shards import spread_as, whole
from rewardlab.policies import Policy

log = logging.getLogger("rewardlab")
MONITORS = {
    "distance",
    "classifier",
    "disagreement",
    "norm_ratio",
    "outliers",
    "stillness",
    "flicker",
    "inconsistency",
}

# The name of earlier versions.
Watched = MonitoredPolicy


class Guard(Callback):
    """Read the reward and monitors every few steps, and stop training when a monitor gets worse.

    Every reading uses the same prompts and seeds. The monitors are logged as `guard/<name>` beside
    `guard/score`, and their standard errors as `guard_error/<name>`:

    * `disagreement`: standard deviation of the reward's members.
    * `distance`: KID from the reward's features of held-out targets.
    * `classifier`: minus the mean score of a reward that nothing was optimized against.
    * `norm_ratio` of a policy that denoises: the mean of ‖v‖/‖v_ref‖ on its outputs (NormGuard,
      arXiv 2606.27771), at the price of one pass of each network over them. It is read where it is
      watched, or where the loop has a reference; a loop without one is given one if it is watched.
    * `outliers`: MOP, the share of outputs that are outliers among the first policy's
      (`OutlierMonitor`), if the guard was given what counts them.
    * `stillness`, `flicker` and `inconsistency` of videos: minus their motion, the deviation of
      frames from the mean of their neighbours, and 1 minus the cosine of neighbouring frames'
      features (`rewardlab.metrics.motion`, `flicker` and `temporal_consistency`).

    An alarm is a reading that is worse than the best so far by more than `tolerance` standard
    errors. After `patience` alarms in a row training stops, and the weights of the last reading
    without an alarm come back. Such signals are evidence, not proof: read the judge afterwards.

    Args:
        every_n_steps: optimizer steps between readings; one is taken before the first.
        samples: number of outputs a reading.
        tolerance: number of standard errors (of both readings) that count as worse.
        patience: number of alarms in a row that stop the training.
        stop: whether to stop at all, or only to log.
        watch: names of the monitors that may raise an alarm; those that have no data are left out.
        seed: seed of the outputs' noise, the same at every reading.
        outliers: how outliers are counted; they are not by default.

    Attributes:
        watched: what is read; set it, or call `observe`.
        alarms: number of alarms in a row so far.
        stopped_at: step at which the guard stopped training; None if it did not.
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
        outliers: OutlierMonitor | None = None,
    ) -> None:
        if every_n_steps < 1 or samples < 8:
            raise InputError(
                "Guard needs every_n_steps >= 1 and samples >= 8; "
                f"got {every_n_steps} and {samples}."
            )
        unknown = set(watch) - MONITORS
        if unknown:
            raise InputError(
                "Guard watches distance, classifier, disagreement, norm_ratio, outliers and, of "
                f"videos, stillness, flicker and inconsistency; got {sorted(unknown)}."
            )
        self.every_n_steps = every_n_steps
        self.samples = samples
        self.tolerance = tolerance
        self.patience = patience
        self.stop = stop
        self.watch = tuple(watch)
        self.seed = seed
        self.outliers = outliers
        self.watched: MonitoredPolicy | None = None
        self._reference: Policy | None = None
        self._reset()

    @property
    def state_key(self) -> str:
        """The name of its state in checkpoints: several may log beside one that stops."""
        return "Guard" if self.stop else f"Guard that logs {', '.join(self.watch)}"

    def observe(self, watched: MonitoredPolicy) -> None:
        """Set what is read."""
        self.watched = watched

    def _reset(self) -> None:
        self.alarms = 0
        self.stopped_at: int | None = None
        self._last = 0
        self._best: dict[str, Reading] = {}
        self._good: list[Tensor] = []

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Keep what velocities are compared with, before a checkpoint changes the policy."""
        loop = cast(TrainedLoop, module)
        if "norm_ratio" in self.watch or loop.reference is not None:
            self._reference = reference_for_norms(loop)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the first reading.

        A resumed run that the guard had stopped is stopped again.
        """
        if trainer.global_step == 0:
            self._reset()
            self._read(trainer, module)
        elif self.stopped_at is not None:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Take a reading if the last is `every_n_steps` ago; a rollout may be several steps."""
        step = trainer.global_step
        if step - self._last >= self.every_n_steps:
            self._last = step
            self._read(trainer, module)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Bring the last good weights back.

        That is after EMA, and other callbacks that leave weights of their own at the end of
        training.
        """
        if self.stopped_at is not None:
            for parameter, good in zip(_trained_parameters(module), self._good, strict=True):
                parameter.data.copy_(spread_as(good, parameter))

    def _read(self, trainer: Trainer, module: LightningModule) -> None:
        """Take a reading, log it, and stop training after too many alarms in a row."""
        if self.watched is None:
            raise InputError(
                "Guard has nothing to read: set "
                "`guard.watched = MonitoredPolicy(reward, prompts, held_out, classifier)`."
            )
        loop = cast(TrainedLoop, module)
        if self.outliers is not None and self.watched.outliers is None:
            self.watched.outliers = self.outliers.fit(loop, self.watched.prompts)
        readings = readings_of(loop.policy, self.watched, self.samples, self.seed, self._reference)
        scores, monitors = readings
        score = scores.mean().item()
        figures = {name: reading.value for name, reading in monitors.items()}
        log_figures(trainer, "guard", {"score": score, **figures})
        log_figures(trainer, "guard_error", _errors(monitors))
        worse = self._worse_monitors(monitors)
        if trainer.world_size > 1:  # devices round differently, and all processes stop together
            worse = trainer.strategy.broadcast(worse)
        if worse:
            self.alarms += 1
        else:
            self.alarms = 0
            self._good = [weight.detach().clone() for weight in _trained_parameters(module)]
        if self.alarms >= self.patience and self.stop:
            self._stop(trainer, worse, score)

    def _worse_monitors(self, monitors: Mapping[str, Reading]) -> list[str]:
        """Return the watched monitors that raise an alarm."""
        worse = []
        for name in self.watch:
            if name in monitors and self._is_worse(name, monitors[name]):
                worse.append(name)
        return worse

    def _is_worse(self, name: str, reading: Reading) -> bool:
        """Compare a reading with the best so far, and remember it if it is better."""
        best = self._best.setdefault(name, reading)
        if reading.value < best.value:
            self._best[name] = reading
        return is_worse(reading, best, self.tolerance)

    def _stop(self, trainer: Trainer, worse: Sequence[str], score: float) -> None:
        self.stopped_at = trainer.global_step
        trainer.should_stop = True
        log.warning(
            "Guard stops at step %d: %s got worse while the reward stood at %.3g. "
            "The last good weights come back.",
            trainer.global_step,
            ", ".join(worse),
            score,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, for the checkpoint."""
        best = {}
        for name, reading in self._best.items():
            best[name] = (reading.value, reading.standard_error)
        return {
            "alarms": self.alarms,
            "last": self._last,
            "stopped_at": self.stopped_at,
            "best": best,
            "good": [whole(weight) for weight in self._good],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.alarms = state_dict["alarms"]
        self.stopped_at = state_dict["stopped_at"]
        self._last = state_dict["last"]
        self._good = state_dict["good"]
        self._best = {name: Reading(*reading) for name, reading in state_dict["best"].items()}


def _errors(monitors: Mapping[str, Reading]) -> dict[str, float]:
    """Return the standard error of each monitor's reading."""
    return {name: reading.standard_error for name, reading in monitors.items()}


def _trained_parameters(module: LightningModule) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
