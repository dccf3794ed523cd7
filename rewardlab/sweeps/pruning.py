"""When a run of a sweep is ended early: rules that its own readings meet, in their order."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.runs.layout import METRICS_FILE, SCRATCH_FOLDER, TIMING_FILE, name_of_title
from rewardlab.runs.records import read_record

PATIENCE = 2  # readings in a row that have to be bad
FEWEST = 4  # earlier points that a median needs
Place = tuple[str, float]  # a training's stage, "" for a fit, and its step


class Reading(NamedTuple):
    """One value of the watched column of metrics.csv.

    Attributes:
        training: the stage that trains, such as "1-post-train"; "" for a fit.
        step: optimizer steps that it has done.
        value: of the column; may be no finite number.
    """

    training: str
    step: float
    value: float


class Rule(NamedTuple):
    """When a run is ended.

    A value that is no finite number ends a run at once. Optuna's own pruners compare a trial's best
    value so far, so that they keep one that is NaN ever after, and one that peaks and collapses.

    Attributes:
        reading: the column of metrics.csv that is watched.
        sign: 1 where higher is better, -1 where lower is.
        collapse: how far below its best so far a run may be, in the reading's own units; None for
            however far.
        behind: whether a run that is worse than the median of earlier points is ended.
        patience: readings in a row that have to be bad.
        medians: of earlier points, by training and step.

    Example:
        >>> rule = Rule("reading/gold", 1, collapse=0.5, behind=False, patience=1, medians={})
        >>> verdict(rule, [Reading("", 0, 0.1), Reading("", 9, 0.9), Reading("", 18, 0.2)]).reason
        'reading/gold is 0.2 at step 18, more than 0.5 from its best, 0.9'
    """

    reading: str
    sign: int
    collapse: float | None
    behind: bool
    patience: int
    medians: Mapping[Place, float]


class Verdict(NamedTuple):
    """Why a run is ended.

    Attributes:
        reason: in words.
        readings: how many readings there were until then.
    """

    reason: str
    readings: int


@dataclass(frozen=True)
class Watch:
    """A run whose readings are watched. A call returns why it is to end, or None.

    Attributes:
        run: its folder.
        stages: the folder of stages, which runs may share.
        rule: when it is ended.
    """

    run: Path
    stages: Path
    rule: Rule

    def __call__(self) -> Verdict | None:
        """Return why the run is to end, or None."""
        return verdict(self.rule, readings_of(self.run, self.stages, self.rule.reading))


def verdict(rule: Rule, readings: Sequence[Reading]) -> Verdict | None:
    """Return why readings end a run, or None.

    The first reading that meets the rule counts, so that it makes no difference when they are seen.
    """
    best: dict[str, float] = {}
    fallen = 0
    behind = 0
    for number, reading in enumerate(readings, 1):
        shown = f"{rule.reading} is {reading.value:.4g} at step {reading.step:g}"
        if not math.isfinite(reading.value):
            return Verdict(f"{shown}, which is no number", number)
        height = rule.sign * reading.value
        peak = max(height, best.get(reading.training, height))
        best[reading.training] = peak
        fallen = fallen + 1 if _is_fallen(rule, height, peak) else 0
        if fallen >= rule.patience:
            text = f"more than {rule.collapse:g} from its best, {rule.sign * peak:.4g}"
            return Verdict(f"{shown}, {text}", number)
        median = rule.medians.get((reading.training, reading.step))
        is_behind = median is not None and height < rule.sign * median
        behind = behind + 1 if is_behind else 0
        if behind >= rule.patience:
            return Verdict(f"{shown}, worse than earlier points' median, {median:.4g}", number)
    return None


def _is_fallen(rule: Rule, height: float, peak: float) -> bool:
    return rule.collapse is not None and peak - height > rule.collapse


def readings_of(run: Path, stages: Path, column: str) -> list[Reading]:
    """Return a run's readings in their order: those of finished trainings, then of the present one.

    Args:
        run: the run folder.
        stages: the folder of stages, which runs may share.
        column: of metrics.csv.

    Example:
        >>> run = getfixture("tmp_path")
        >>> _ = (run / "metrics.csv").write_text("step,val/auc\\n4,0.5\\n8,\\n9,0.75\\n")
        >>> readings_of(run, run / "stages", "val/auc")
        [Reading(training='', step=4.0, value=0.5), Reading(training='', step=9.0, value=0.75)]
    """
    readings = _column(run / METRICS_FILE, "", column)
    finished = list(read_record(run / TIMING_FILE))
    begun = sorted(path.name for path in (run / SCRATCH_FOLDER).glob("*-????????"))
    for title in dict.fromkeys([*finished, *begun]):
        training = name_of_title(title)
        rows = _column(stages / title / METRICS_FILE, training, column)
        readings += rows or _column(run / SCRATCH_FOLDER / title / METRICS_FILE, training, column)
    return readings


def _column(file: Path, training: str, column: str) -> list[Reading]:
    """Return a column's readings; none without the file, and none of a line that is being written.

    The last value at a step counts.
    """
    if not file.is_file():
        return []
    values: dict[float, float] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            step = number_in(row.get("step"))
            value = number_in(row.get(column))
            if step is not None and value is not None:
                values[step] = value
    return [Reading(training, step, value) for step, value in values.items()]


def number_in(text: str | None) -> float | None:
    """Return the number that a cell of a table holds, "nan" and "inf" too, or None."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def medians_of(points: Iterable[Sequence[Sequence[Reading]]]) -> dict[Place, float]:
    """Return the median over points of their seeds' mean reading, where enough points have one.

    Args:
        points: of each point, of each of its seeds, the readings.

    Example:
        >>> points = [[[Reading("", 5, value)]] for value in (1.0, 2.0, 4.0, 9.0)]
        >>> medians_of(points), medians_of(points[:3])
        ({('', 5): 3.0}, {})
    """
    means: dict[Place, list[float]] = {}
    for seeds in points:
        values: dict[Place, list[float]] = {}
        for readings in seeds:
            for reading in readings:
                place = (reading.training, reading.step)
                values.setdefault(place, []).append(reading.value)
        for place, of_seeds in values.items():
            mean = statistics.fmean(of_seeds)
            if math.isfinite(mean):
                means.setdefault(place, []).append(mean)
    enough = {place: column for place, column in means.items() if len(column) >= FEWEST}
    return {place: statistics.median(column) for place, column in enough.items()}


KEYS = ("reading", "better", "collapse", "behind", "patience")


def read_rule(content: Any, better: str, *, may_compare: bool) -> Rule | None:
    """Return the rule of a sweep file's `prune:`, if there is one.

    Args:
        content: what stands there.
        better: "higher" or "lower", where the rule does not say.
        may_compare: whether points come in batches, of which later ones know earlier ones.

    Raises:
        InputError: naming what is wrong.

    Example:
        >>> read_rule({"reading": "reading/gold", "collapse": 1}, "higher", may_compare=False).sign
        1
    """
    if content is None:
        return None
    if not isinstance(content, Mapping) or not isinstance(content.get("reading"), str):
        raise InputError(
            "prune: takes reading:, a column of metrics.csv that is written while a run trains, "
            f"such as reading/gold or val/auc; got {content!r:.60}."
        )
    for key in content:
        if key not in KEYS:
            raise InputError(f"prune: has no key {key!r}; its keys are {', '.join(KEYS)}.")
    direction = content.get("better", better)
    if direction not in ("higher", "lower"):
        raise InputError(f"prune: better takes higher or lower; got {direction!r}.")
    sign = 1 if direction == "higher" else -1
    behind = _flag(content.get("behind", False), may_compare)
    patience = content.get("patience", PATIENCE)
    if type(patience) is not int or patience < 1:
        raise InputError(f"prune: patience is a number of readings from 1 on; got {patience!r}.")
    collapse = _distance(content.get("collapse"))
    return Rule(str(content["reading"]), sign, collapse, behind, patience, {})


def _flag(behind: Any, may_compare: bool) -> bool:
    if not isinstance(behind, bool):
        raise InputError(f"prune: behind is true or false; got {behind!r}.")
    if behind and not may_compare:
        raise InputError(
            "prune: behind compares a point with those of earlier batches, and only search: has "
            "batches. Leave it out: values that are no number, and collapse, end runs of any sweep."
        )
    return behind


def _distance(collapse: Any) -> float | None:
    """Return how far a run may fall, as a positive number."""
    if collapse is None:
        return None
    number = None if isinstance(collapse, bool) else number_in(str(collapse))
    if number is None or not 0 < number < math.inf:
        raise InputError(
            "prune: collapse is how far a reading may be from the run's best, in the reading's own "
            f"units, above 0; got {collapse!r}."
        )
    return number
