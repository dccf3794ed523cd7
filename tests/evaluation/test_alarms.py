"""Alarms from readings alone, and how they fit the falls of gold."""

import pytest

from rewardlab.errors import InputError
from rewardlab.evaluation import Guard
from rewardlab.evaluation.alarms import (
    Detection,
    Outcome,
    detection,
    first_above,
    first_alarm,
    is_worse,
)
from rewardlab.evaluation.monitors import Reading

STEPS = [0, 10, 20, 30, 40, 50]


def read(*values, error=0.1):
    return [Reading(value, error) for value in values]


def test_a_reading_is_worse_by_the_standard_errors_of_both():
    best = Reading(1.0, 0.3)
    assert is_worse(Reading(2.0, 0.4), best, 1.99)  # 1.0 is two errors of 0.5
    assert not is_worse(Reading(2.0, 0.4), best, 2.01)


def test_an_alarm_is_against_the_lowest_reading_so_far_and_waits_for_its_patience():
    values = read(1.0, 0.5, 1.0, 0.6, 1.1, 1.2)
    assert first_alarm(STEPS, values, tolerance=3.0, patience=1) == 20
    assert first_alarm(STEPS, values, tolerance=3.0, patience=2) == 50
    assert first_alarm(STEPS, values, tolerance=3.0, patience=3) is None
    assert first_alarm(STEPS, values, tolerance=6.0, patience=1) is None
    assert first_alarm([], [], tolerance=1.0) is None


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("patience", [1, 2])
def test_the_guard_raises_the_same_alarms(tolerance, patience):
    values = read(1.0, 1.2, 0.7, 0.9, 1.0, 1.3)
    guard = Guard(tolerance=tolerance, patience=patience, watch=["distance"])
    row = 0
    stop = None
    for step, reading in zip(STEPS, values, strict=True):
        row = row + 1 if guard._worse_monitors({"distance": reading}) else 0
        if row == patience and stop is None:
            stop = step
    assert first_alarm(STEPS, values, tolerance=tolerance, patience=patience) == stop


def test_a_level_counts_values_above_it_in_a_row():
    values = [0.0, 6.0, 4.0, 5.0, 7.0, 8.0]
    assert first_above(STEPS, values, level=5.0, patience=1) == 10
    assert first_above(STEPS, values, level=5.0, patience=2) == 50
    assert first_above(STEPS, values, level=9.0) is None


def test_delays_misses_and_false_alarms_are_counted_apart():
    outcomes = [
        Outcome(alarm=120, fall=100, peak=50),
        Outcome(alarm=30, fall=100, peak=50),
        Outcome(alarm=60, fall=100, peak=60),
        Outcome(alarm=None, fall=90, peak=40),
        Outcome(alarm=30, fall=None, peak=300),
        Outcome(alarm=None, fall=None, peak=20),
    ]
    expected = Detection(falls=4, delays=(20, -70, -40), missed=1, early=1, steady=2, false=1)
    assert detection(outcomes) == expected
    assert detection([]) == Detection(0, (), 0, 0, 0, 0)


@pytest.mark.parametrize("count", [5, 7])
def test_columns_that_disagree_are_refused(count):
    with pytest.raises(InputError, match=f"6 steps, {count} readings"):
        first_alarm(STEPS, read(*range(count)), tolerance=1.0)
    with pytest.raises(InputError, match="patience=0"):
        first_above(STEPS, range(6), level=1.0, patience=0)
