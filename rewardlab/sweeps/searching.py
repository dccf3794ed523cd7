"""Run a search: choose a batch, run it, and choose the next by what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from rewardlab.runs.attempts import FINISHED
from rewardlab.sweeps.figures import figure_of
from rewardlab.sweeps.files import Sweep
from rewardlab.sweeps.folder import PRUNED, SweepFolder
from rewardlab.sweeps.points import Point, Settings
from rewardlab.sweeps.running import How, rule_text, run_and_retry, run_points
from rewardlab.sweeps.search import Search, Trial, next_settings


def run_search(sweep: Sweep, folder: SweepFolder, how: How) -> list[Point]:
    """Run a search until it has as many points as were asked for, and return those that failed.

    Points that were chosen before, by a sweep that was killed, are run first. Each batch is noted
    before it runs.

    Args:
        sweep: with `search`.
        folder: where.
        how: how.
    """
    search = _search_of(sweep)
    settings = folder.chosen(search_text(search))
    failed = []
    if settings:
        failed = run_points(sweep.with_settings(settings), folder, how)
    else:
        folder.keep_rule(rule_text(sweep))
    while len(settings) < search.count:
        batch = next_batch(sweep, folder, settings)
        if not batch:
            how.say(f"Every point of the search was tried: there are {len(settings)}.")
            break
        settings = [*settings, *batch]
        folder.keep_chosen(search_text(search), settings)
        first = len(settings) - len(batch) + 1
        how.say(f"Points {first} to {len(settings)} of {search.count}.")
        points = chosen_points(sweep, folder)
        new = points.points[-len(batch) * len(sweep.seeds) :]
        failed += run_and_retry(points, folder, new, how)
    return failed


def chosen_points(sweep: Sweep, folder: SweepFolder) -> Sweep:
    """Return a sweep with the points that its search chose so far; others as they are.

    Example:
        >>> from rewardlab.sweeps import read_sweep
        >>> file = getfixture("tmp_path") / "sweep.yaml"
        >>> _ = file.write_text("config: a.yaml\\ngrid: {a.x: [1, 2]}\\nfigure: gold")
        >>> len(chosen_points(read_sweep(file), SweepFolder(file.parent / "out")).points)
        2
    """
    if sweep.search is None:
        return sweep
    return sweep.with_settings(folder.chosen(search_text(sweep.search)))


def search_text(search: Search) -> str:
    """Return what the points of a search depend on, as a text: all but their number."""
    return json.dumps(asdict(replace(search, count=0)), default=str)


def next_batch(sweep: Sweep, folder: SweepFolder, settings: Sequence[Settings]) -> list[Settings]:
    """Return the settings of the points up to the end of the batch; fewer if no new ones are found.

    Args:
        sweep: with `search`.
        folder: with the runs of earlier points.
        settings: of the points that were chosen before.
    """
    search = _search_of(sweep)
    batch = search.batch_of(len(settings))
    last = min(search.count, (batch + 1) * search.batch)
    trials = trials_of(sweep.with_settings(settings), folder)
    for number in range(batch * search.batch, len(trials)):
        trials[number] = Trial(trials[number].settings, "running")
    chosen: list[Settings] = []
    for number in range(len(settings), last):
        one = next_settings(search, number, trials, sweep.better)
        if one is None:
            break
        chosen.append(one)
        trials.append(Trial(one, "running"))
    return chosen


def trials_of(sweep: Sweep, folder: SweepFolder) -> list[Trial]:
    """Return what each point of a search came to.

    A point with a run that was pruned, or that has no finite figure, counts as pruned; one with a
    run that failed, as failed.
    """
    seeds = len(sweep.seeds)
    trials = []
    for start in range(0, len(sweep.points), seeds):
        trials.append(_trial(sweep, folder, sweep.points[start : start + seeds]))
    return trials


def _trial(sweep: Sweep, folder: SweepFolder, points: Sequence[Point]) -> Trial:
    """Return what one point's seeds came to; the figure's mean over them is what is searched by."""
    settings = points[0].settings
    statuses = [folder.status(point) for point in points]
    if PRUNED in statuses:
        return Trial(settings, "pruned")
    if any(status != FINISHED for status in statuses):
        return Trial(settings, "failed")
    values = [figure_of(folder.run(point), sweep.figure) for point in points]
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return Trial(settings, "pruned")
    return Trial(settings, "finished", sum(finite) / len(finite))


def _search_of(sweep: Sweep) -> Search:
    assert sweep.search is not None
    return sweep.search
