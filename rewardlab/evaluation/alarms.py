"""Alarms: when a monitor's readings call a policy over-optimized, and how that fits its gold.

No gold is read to raise an alarm; it is only what alarms are compared with afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rewardlab.errors import InputError
from rewardlab.evaluation.monitors import Reading


class Outcome(NamedTuple):
    """What became of one run, in optimizer steps.

    Attributes:
        alarm: step of the alarm; None if there was none.
        fall: step at which gold fell; None if it did not.
        peak: step at which gold was highest.
    """

    alarm: float | None
    fall: float | None
    peak: float


class Detection(NamedTuple):
    """How a monitor's alarms fit the falls of several runs.

    Attributes:
        falls: number of runs in which gold fell.
        delays: alarm less fall of each of those that had an alarm; below 0 it came ahead.
        missed: number of those without an alarm.
        early: number of those whose alarm came before the peak of gold, which was still to rise.
        steady: number of runs in which gold did not fall.
        false: number of those with an alarm.
    """

    falls: int
    delays: tuple[float, ...]
    missed: int
    early: int
    steady: int
    false: int


def is_worse(reading: Reading, best: Reading, tolerance: float) -> bool:
    """Return whether a reading is above the best by more than some standard errors of both.

    Example:
        >>> best = Reading(1.0, 0.3)
        >>> is_worse(Reading(2.6, 0.4), best, 3.0), is_worse(Reading(2.4, 0.4), best, 3.0)
        (True, False)
    """
    variance = reading.standard_error**2 + best.standard_error**2
    standard_error: float = variance**0.5
    return reading.value - best.value > tolerance * standard_error


def first_alarm(
    steps: Sequence[float],
    readings: Sequence[Reading],
    *,
    tolerance: float,
    patience: int = 2,
) -> float | None:
    """Return the step at which `Guard` would stop by these readings.

    Args:
        steps: rising steps [S].
        readings: of one monitor at each step, [S]; worse when higher.
        tolerance: standard errors above the lowest reading so far that count as worse.
        patience: readings in a row that have to be worse.

    Returns:
        The step of the last of those, or None.

    Raises:
        InputError: if the columns disagree, or `patience` is below 1.

    Example:
        >>> readings = [Reading(value, 0.1) for value in (1.0, 0.9, 1.6, 1.7)]
        >>> first_alarm([0, 10, 20, 30], readings, tolerance=3.0)
        30.0
    """
    _check(steps, readings, patience)
    alarms = []
    best = readings[0] if readings else None
    for reading in readings:
        assert best is not None
        if reading.value < best.value:
            best = reading
        alarms.append(is_worse(reading, best, tolerance))
    return _first_in_a_row(steps, alarms, patience)


def first_above(
    steps: Sequence[float], values: Sequence[float], *, level: float, patience: int = 2
) -> float | None:
    """Return the step at which values have been above a level so many times in a row, or None.

    It is for monitors that rise in every run, such as the KL, and whose level has a meaning.

    Raises:
        InputError: if the columns disagree, or `patience` is below 1.

    Example:
        >>> first_above([0, 10, 20, 30], [0.0, 6.0, 4.0, 7.0], level=5.0, patience=1)
        10.0
    """
    _check(steps, values, patience)
    return _first_in_a_row(steps, [value > level for value in values], patience)


def detection(outcomes: Sequence[Outcome]) -> Detection:
    """Count delays, missed falls and false alarms of one monitor over runs.

    Example:
        >>> detection([Outcome(120, 100, 50), Outcome(None, 90, 40), Outcome(30, None, 500)])
        Detection(falls=2, delays=(20,), missed=1, early=0, steady=1, false=1)
    """
    delays: list[float] = []
    missed = early = steady = false = 0
    for outcome in outcomes:
        if outcome.fall is None:
            steady += 1
            false += outcome.alarm is not None
        elif outcome.alarm is None:
            missed += 1
        else:
            delays.append(outcome.alarm - outcome.fall)
            early += outcome.alarm < outcome.peak
    falls = len(outcomes) - steady
    return Detection(falls, tuple(delays), missed, early, steady, false)


def _check(steps: Sequence[float], values: Sequence[object], patience: int) -> None:
    if len(steps) != len(values) or patience < 1:
        raise InputError(
            "An alarm needs a reading for each of its steps, and patience of 1 or more; got "
            f"{len(steps)} steps, {len(values)} readings and patience={patience}."
        )


def _first_in_a_row(steps: Sequence[float], alarms: Sequence[bool], patience: int) -> float | None:
    row = 0
    for step, alarm in zip(steps, alarms, strict=True):
        row = row + 1 if alarm else 0
        if row == patience:
            return float(step)
    return None
