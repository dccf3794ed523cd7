"""What a run says of its own training, without any judge: the readings that `advise` goes by."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.evaluation.alarms import first_alarm
from rewardlab.evaluation.monitors import Reading
from rewardlab.report.trends import FEWEST, noise_of
from rewardlab.runs import layout
from rewardlab.runs.read import Curve, Run, at, curve_of
from rewardlab.storage.loading import loading
from rewardlab.storage.metadata import read_text

LOGGED = (
    "score",
    "score_std",
    "advantage_std",
    "kl",
    "clip_fraction",
    "entropy",
    "length",
    "norm_ratio",
    "chosen",
    "online_lead",
)
READ = ("reading/reward", "reading/kl", "reading/outliers", "reading/norm_ratio")
GUARDED = (
    "guard/score",
    "guard/disagreement",
    "guard/distance",
    "guard/classifier",
    "guard/outliers",
    "guard/norm_ratio",
)
ERRORS = tuple(name.replace("guard/", "guard_error/") for name in GUARDED)
TOLERANCE = 3.0  # standard errors: docs/studies/guard.md
WEIGHT = 2.0  # of a correction, where the config names none: rounds.OnlineHardening


class Setting(NamedTuple):
    """How a run trained its policy, as far as its config says.

    Attributes:
        command: "rounds" or "fit".
        loop: name of the loop's class, such as "PPO"; "" where the config does not say.
        rounds: name of the rounds' class; "" for a fit.
        arguments: what the loop was given.
        callbacks: the callbacks of its training.
        correction: weight of the correction that learned in the loop, if there was one.
        words: the command as it was typed.
    """

    command: str
    loop: str
    rounds: str
    arguments: Mapping[str, Any]
    callbacks: Sequence[Any]
    correction: float = WEIGHT
    words: Sequence[str] = ()

    def has_laid(self, flags: Sequence[str]) -> bool:
        """Tell whether the command names all the configs that flags would lay over it."""
        for flag in flags:
            file = flag.partition("--config ")[2]
            if not file or not any(word.endswith(file) for word in self.words):
                return False
        return True

    @property
    def flag(self) -> str:
        """Return the beginning of a flag that sets an argument of the loop."""
        if self.command == "fit":
            return "--model.init_args."
        return "--rounds.init_args.post_train.loop.init_args."


class Change(NamedTuple):
    """How a figure moved over a run.

    Attributes:
        name: column of metrics.csv.
        first: mean of the first quarter of its readings.
        last: mean of the last quarter.
        noise: standard deviation of a single reading about its trend.
        is_flat: whether first and last differ by no more than the noise explains.
        readings: number of readings.
        step: of the last reading.
    """

    name: str
    first: float
    last: float
    noise: float
    is_flat: bool
    readings: int
    step: float


class Alarm(NamedTuple):
    """When a guard's monitor was worse than its lowest reading by so many standard errors.

    Attributes:
        step: of the second such reading in a row.
        lowest: reading before it.
        value: the reading at that step.
        size: how far above the lowest, in multiples of `TOLERANCE` standard errors.
    """

    step: float
    lowest: float
    value: float
    size: float


class OwnFigures(NamedTuple):
    """What a run says of its own training.

    Attributes:
        name: of the run.
        setting: how the policy was trained.
        changes: by the figure's name; figures with fewer than four readings have none.
        alarms: by the name of the guard's monitor; none where its standard errors are not logged.
        diagnostics: content of diagnostics.json.
    """

    name: str
    setting: Setting
    changes: dict[str, Change]
    alarms: dict[str, Alarm]
    diagnostics: Sequence[Any]


def own_figures(run: Run, diagnostics: Sequence[Any] = ()) -> OwnFigures:
    """Read a run folder's figures of its own training; no judge's are read.

    Args:
        run: of `rewardlab rounds` or `fit`.
        diagnostics: content of its diagnostics.json.

    Raises:
        InputError: if it trained no policy, or has too few steps to tell anything.
    """
    setting = setting_of(run)
    file = _metrics_file(run)
    curves = {} if file is None else _curves(file, _names(setting))
    if not any(curves.values()):
        raise InputError(
            f"{run.path} has no steps of a policy's training: no figure of it stands in a "
            f"{layout.METRICS_FILE}. Give a run of `rewardlab rounds` or `fit` that trained a "
            "policy. A fit of a reward has none, nor has a run that ended before its trainer first "
            "logged (log_every_n_steps)."
        )
    told = {}
    for name, curve in curves.items():
        change = change_of(name, curve)
        if change is not None and name not in ERRORS:
            told[name] = change
    if not told:
        most = max(len(curve) for curve in curves.values())
        raise InputError(
            f"{run.path} has {most} of the {FEWEST} readings from which a trend can be told from "
            "noise. Train longer, or read more often (every_n_steps of Guard and Readings, "
            "log_every_n_steps of the trainer)."
        )
    return OwnFigures(run.name, setting, told, alarms_of(curves), diagnostics)


def alarms_of(curves: Mapping[str, Curve]) -> dict[str, Alarm]:
    """Return the first alarm of each monitor that a guard read with its standard errors.

    Example:
        >>> values = [(0, 1.0), (10, 1.1), (20, 1.5), (30, 1.6)]
        >>> errors = [(step, 0.2) for step, _ in values]
        >>> alarms_of({"guard/distance": values, "guard_error/distance": errors})
        {}
        >>> errors = [(step, 0.05) for step, _ in values]
        >>> alarms = alarms_of({"guard/distance": values, "guard_error/distance": errors})
        >>> alarms["guard/distance"].step
        30.0
    """
    alarms = {}
    for name, error_name in zip(GUARDED, ERRORS, strict=True):
        errors = dict(curves.get(error_name, ()))
        curve = [point for point in curves.get(name, ()) if point[0] in errors]
        steps = [step for step, _ in curve]
        readings = [Reading(value, errors[step]) for step, value in curve]
        step = first_alarm(steps, readings, tolerance=TOLERANCE)
        if step is not None:
            alarms[name] = _alarm_at(steps.index(step), step, readings)
    return alarms


def _alarm_at(place: int, step: float, readings: Sequence[Reading]) -> Alarm:
    reading = readings[place]
    lowest = min(readings[: place + 1], key=lambda earlier: earlier.value)
    error = math.hypot(reading.standard_error, lowest.standard_error)
    size = (reading.value - lowest.value) / (TOLERANCE * error)
    return Alarm(step, lowest.value, reading.value, size)


def change_of(name: str, curve: Curve) -> Change | None:
    """Return how a curve moved, or None if it is too short to tell its noise.

    Example:
        >>> change = change_of("kl", [(step, step / 10) for step in range(8)])
        >>> round(change.first, 2), round(change.last, 2), change.is_flat
        (0.05, 0.65, False)
    """
    values = [value for _, value in curve]
    noise = noise_of(values)
    if noise is None:
        return None
    quarter = len(values) // 4
    return Change(
        name=name,
        first=fmean(values[:quarter]),
        last=fmean(values[-quarter:]),
        noise=(noise.high - noise.low) / 4,
        is_flat=noise.is_flat,
        readings=len(values),
        step=curve[-1][0],
    )


def setting_of(run: Run) -> Setting:
    """Return how a run trained its policy, by its config."""
    rounds = at(run.config, "rounds", "init_args")
    loop = at(rounds, "post_train", "loop")
    callbacks = at(rounds, "post_train", "callbacks")
    if run.kind == "fit":
        loop = at(run.config, "model")
        callbacks = at(run.config, "trainer", "callbacks")
    words = run.facts.get("command", ())
    return Setting(
        command=run.kind,
        loop=_class_name(loop),
        rounds=_class_name(at(run.config, "rounds")),
        arguments=at(loop, "init_args"),
        callbacks=callbacks or (),
        correction=at(rounds, "online", "weight") or WEIGHT,
        words=[word for word in words if isinstance(word, str)],
    )


def _class_name(node: Any) -> str:
    path = at(node, "class_path")
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def _names(setting: Setting) -> list[str]:
    """Return the columns that are read: those that no judge has."""
    judged: set[str] = set()
    for callback in setting.callbacks:
        judges = at(callback, "init_args", "judges")
        judged.update(f"reading/{name}" for name in judges)
    return [*LOGGED, *GUARDED, *ERRORS, *(name for name in READ if name not in judged)]


def _metrics_file(run: Run) -> Path | None:
    """Return metrics.csv of the last training of the policy."""
    if run.kind == "fit":
        file = run.path / layout.METRICS_FILE
        return file if file.is_file() else None
    for step in reversed(run.steps):
        stage = run.stage(layout.stage_name(step.number, layout.POST_TRAIN))
        if stage is not None and (stage / layout.METRICS_FILE).is_file():
            return stage / layout.METRICS_FILE
    return None


def _curves(file: Path, names: Sequence[str]) -> dict[str, Curve]:
    """Return (step, value) of the columns that are read, where they have both."""
    with loading(file):
        rows = list(csv.DictReader(read_text(file).splitlines()))
        return {name: curve_of(rows, name) for name in names}
