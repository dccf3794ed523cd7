"""What a sweep came to: each setting's mean over seeds with its interval, and the best."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.runs.attempts import FAILED, FINISHED
from rewardlab.storage.atomic import write_atomically
from rewardlab.sweeps.figures import figure_of
from rewardlab.sweeps.files import Sweep
from rewardlab.sweeps.folder import PRUNED, SUMMARY, SweepFolder
from rewardlab.sweeps.points import Point, Settings, command_of

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over seeds with the ends of Student's 95 % interval; None for one seed."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Setting:
    """A setting of a sweep with what its seeds came to.

    Attributes:
        settings: the text of each flag's value, by its dotted key.
        label: the settings for people.
        values: the figure of each seed that is finished and has it.
        finished: how many seeds are finished.
        pruned: how many were ended early.
        failed: how many failed.
        seeds: how many there are.
        command: the command of the first seed, to be repeated by hand.
    """

    settings: Settings
    label: str
    values: Mapping[int, float]
    finished: int
    pruned: int
    failed: int
    seeds: int
    command: str

    @property
    def interval(self) -> Interval | None:
        """The mean over seeds, or None where no seed has the figure."""
        return interval_of(list(self.values.values())) if self.values else None

    def data(self) -> dict[str, Any]:
        """Return the setting as plain data; its figure is {"mean", "low", "high"}."""
        ends = self.interval
        return {**asdict(self), "figure": {} if ends is None else ends._asdict()}


@dataclass(frozen=True)
class Trouble:
    """A run that is not finished, or does not count.

    Attributes:
        label: its setting and seed.
        status: "pruned", "failed", "interrupted" or "waiting".
        tries: how often it was run.
        reason: why it was ended early, or the last line of its log.
        log: the log.
    """

    label: str
    status: str
    tries: int
    reason: str
    log: str


@dataclass(frozen=True)
class Summary:
    """What a sweep came to.

    Attributes:
        figure: the figure that settings are compared by.
        better: "higher" or "lower".
        keys: what is varied, in the file's order.
        settings: all of them, in the file's order.
        troubles: the runs that are not finished, or that were ended early.
        seeds: of each setting.
        is_search: whether settings were chosen one after the other.

    Example:
        >>> Summary("gold", "higher", [], [], [], [0]).best is None
        True
    """

    figure: str
    better: str
    keys: list[str]
    settings: list[Setting]
    troubles: list[Trouble]
    seeds: list[int]
    is_search: bool = False

    @property
    def best(self) -> Setting | None:
        """The setting with the best mean among those with the most seeds; None if none has any."""
        most = max((len(setting.values) for setting in self.settings), default=0)
        full = [setting for setting in self.settings if len(setting.values) == most]
        if not most:
            return None
        sign = 1 if self.better == "higher" else -1
        return max(full, key=lambda setting: sign * statistics.fmean(setting.values.values()))

    @property
    def level(self) -> list[Setting]:
        """The settings that are not told apart from the best.

        Differences are paired by seed; one is told apart if its 95 % interval leaves out 0.
        """
        best = self.best
        if best is None:
            return []
        others = [one for one in self.settings if one is not best and one.values]
        return [one for one in others if not told_apart(best.values, one.values)]

    def data(self) -> dict[str, Any]:
        """Return the summary as plain data, as a page takes it."""
        best = self.best
        return {
            **asdict(self),
            "settings": [setting.data() for setting in self.settings],
            "best": None if best is None else self.settings.index(best),
            "level": [self.settings.index(setting) for setting in self.level],
        }


def interval_of(values: Sequence[float]) -> Interval:
    """Return the mean with Student's 95 % interval, which few seeds make wide.

    Args:
        values: one of each seed, one at least.

    Example:
        >>> interval_of([1.0, 2.0, 3.0])
        Interval(mean=2.0, low=-0.484..., high=4.484...)
        >>> interval_of([1.0])
        Interval(mean=1.0, low=None, high=None)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    from scipy.special import stdtrit

    error = statistics.stdev(values) / len(values) ** 0.5
    half_width = error * float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean, mean - half_width, mean + half_width)


def told_apart(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Tell whether two settings differ by more than their seeds do, paired by seed.

    Example:
        >>> told_apart({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.9, 1: 1.91, 2: 2.9})
        True
        >>> told_apart({0: 1.0}, {0: 0.0})  # one seed tells nothing
        False
    """
    differences = [one[seed] - other[seed] for seed in one if seed in other]
    if len(differences) < 2:
        return False
    ends = interval_of(differences)
    assert ends.low is not None
    assert ends.high is not None
    return not ends.low <= 0 <= ends.high


def summarize(sweep: Sweep, folder: SweepFolder) -> Summary:
    """Return what a sweep came to so far, from its runs' folders alone.

    Example:
        >>> from rewardlab.sweeps import read_sweep
        >>> file = getfixture("tmp_path") / "sweep.yaml"
        >>> _ = file.write_text("config: a.yaml\\ngrid: {a.x: [1, 2]}\\nfigure: gold")
        >>> sweep = read_sweep(file)
        >>> folder = SweepFolder(file.parent / "out")
        >>> for point in sweep.points:  # as if both had run
        ...     folder.run(point).mkdir(parents=True)
        ...     _ = (folder.run(point) / "run.json").write_text('{"status": "finished"}')
        ...     results = '{"gold": %s}' % point.settings["a.x"]
        ...     _ = (folder.run(point) / "results.json").write_text(results)
        >>> summarize(sweep, folder).best.label
        'x=2'
    """
    groups: dict[str, list[Point]] = {}
    for point in sweep.points:
        groups.setdefault(point.name, []).append(point)
    keys: dict[str, None] = {}
    settings = []
    for points in groups.values():
        keys.update(dict.fromkeys(points[0].settings))
        settings.append(_setting(sweep, folder, points))
    troubles = [_trouble(folder, point) for point in sweep.points if not _stands(folder, point)]
    return Summary(
        sweep.figure,
        sweep.better,
        list(keys),
        settings,
        troubles,
        sweep.seeds,
        is_search=sweep.search is not None,
    )


def _stands(folder: SweepFolder, point: Point) -> bool:
    return folder.status(point) == FINISHED


def _setting(sweep: Sweep, folder: SweepFolder, points: Sequence[Point]) -> Setting:
    statuses = [folder.status(point) for point in points]
    values = {}
    for point, status in zip(points, statuses, strict=True):
        value = figure_of(folder.run(point), sweep.figure) if status == FINISHED else None
        if value is not None:
            values[point.seed] = value
    first = points[0]
    command = command_of(["rewardlab", *sweep.words(first), f"--out=runs/{first.name}"])
    return Setting(
        settings=first.settings,
        label=first.label,
        values=values,
        finished=statuses.count(FINISHED),
        pruned=statuses.count(PRUNED),
        failed=statuses.count(FAILED),
        seeds=len(points),
        command=command,
    )


def _trouble(folder: SweepFolder, point: Point) -> Trouble:
    noted = folder.noted(point)
    return Trouble(
        f"{point.label}, seed {point.seed}",
        folder.status(point),
        int(noted.get("tries", 0)),
        str(noted.get("reason", "")),
        str(folder.log(point)) if noted else "",
    )


def write_summary(summary: Summary, folder: SweepFolder) -> Path:
    """Write summary.csv, a row a setting, and return its path.

    Columns are each varied key, the numbers of finished, pruned and failed seeds, mean, low and
    high over seeds, the figure of each seed, and the command.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    of_seeds = [f"seed {seed}" for seed in summary.seeds]
    counts = ("finished", "pruned", "failed")
    rows.writerow([*summary.keys, *counts, "mean", "low", "high", *of_seeds, "command"])
    for setting in summary.settings:
        values = [setting.settings.get(key, "") for key in summary.keys]
        ends = setting.interval or ("", "", "")
        figures = [setting.values.get(seed, "") for seed in summary.seeds]
        numbers = (setting.finished, setting.pruned, setting.failed)
        rows.writerow([*values, *numbers, *ends, *figures, setting.command])
    file = folder.path / SUMMARY
    write_atomically(file, text.getvalue())
    return file
