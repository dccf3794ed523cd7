"""Intervals over seeds, and the word that follows from one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

from claims.claim import Row, Word


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return "0.93 [0.90, 0.95]"."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_of(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean over seeds with Student's interval, which few seeds make wide.

    Raises:
        ValueError: if there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"An interval over seeds needs two or more of them; got {len(values)}.")
    mean = statistics.mean(values)
    error = statistics.stdev(values) / len(values) ** 0.5
    half_width = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - half_width, mean + half_width)


def values_of(rows: Sequence[Row], setting: str, figure: str) -> list[float]:
    """Return a setting's figures, in the order of seeds; those that were not reached are left out.

    Raises:
        ValueError: if no row is of this setting.
    """
    chosen = sorted((row for row in rows if row["setting"] == setting), key=lambda row: row["seed"])
    if not chosen:
        raise ValueError(f"No row has the setting {setting!r}.")
    return [row[figure] for row in chosen if row[figure] is not None]


def gain(rows: Sequence[Row], setting: str, beside: str, figure: str) -> Interval:
    """Return the mean difference of a figure between two settings, paired by seed."""
    ours = {row["seed"]: row[figure] for row in rows if row["setting"] == setting}
    theirs = {row["seed"]: row[figure] for row in rows if row["setting"] == beside}
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours) if seed in theirs]
    return mean_of([one - other for one, other in pairs if None not in (one, other)])


def above(interval: Interval, threshold: float = 0.0) -> Word:
    """Return "holds" for an interval above a threshold, and "fails" for one below."""
    if interval.low > threshold:
        return "holds"
    return "fails" if interval.high < threshold else "undecided"


def all_of(words: Sequence[Word]) -> Word:
    """Return "holds" if all hold, "fails" if any fails, else "undecided"."""
    if "fails" in words:
        return "fails"
    return "undecided" if "undecided" in words else "holds"
