"""Run the points of a sweep, none of them twice, and say how far they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from rewardlab.progress import duration
from rewardlab.runs.attempts import FAILED, FINISHED
from rewardlab.runs.locks import locked
from rewardlab.sweeps.figures import figure_of
from rewardlab.sweeps.files import Sweep
from rewardlab.sweeps.folder import PRUNED, SweepFolder
from rewardlab.sweeps.launchers import IsFinished, Launch
from rewardlab.sweeps.points import Point
from rewardlab.sweeps.processes import Ended, Job, run_jobs
from rewardlab.sweeps.pruning import Place, Reading, Watch, medians_of, readings_of
from rewardlab.sweeps.search import Search

PROGRAM = (sys.executable, "-m", "rewardlab")
REFUSED = 2  # the exit code for an input to mend, which a second try would not mend
Say = Callable[[str], None]


class How(NamedTuple):
    """How points are run.

    Attributes:
        workers: how many at once.
        retries: how often a point that failed is tried again before the sweep ends.
        program: the words before a command's name.
        say: takes what is printed.
        environment: variables of the runs beside those of this process.
        launch: runs the processes, on this machine or elsewhere.

    Example:
        >>> How(workers=2).retries
        1
    """

    workers: int = 1
    retries: int = 1
    program: Sequence[str] = PROGRAM
    say: Say = print
    environment: Mapping[str, str] = {}
    launch: Launch = run_jobs


def run_points(sweep: Sweep, folder: SweepFolder, how: How) -> list[Point]:
    """Run the points that are not finished, failed ones again, and return those that failed.

    Points of an earlier sweep that was killed may still be at work by themselves; they are waited
    for, so that none is run twice.

    Args:
        sweep: what to run.
        folder: where.
        how: how.

    Example:
        >>> from rewardlab.sweeps import read_sweep
        >>> file = getfixture("tmp_path") / "sweep.yaml"
        >>> _ = file.write_text("config: a.yaml\\ngrid: {a.x: [1, 2]}\\nfigure: gold")
        >>> sweep = read_sweep(file)
        >>> how = How(retries=0, program=["true"])  # a program that leaves no run
        >>> failed = run_points(sweep, SweepFolder(file.parent / "out"), how)
        2 runs: 0 stand, 2 to do, 1 at once.
        [1/2] x=1, seed 0: failed, ...
        [2/2] x=2, seed 0: failed, ...
        >>> [point.label for point in failed]
        ['x=1', 'x=2']
    """
    _wait_for_earlier(sweep, folder, how.say)
    _review(sweep, folder)
    left = folder.left(sweep.points)
    stand = len(sweep.points) - len(left)
    how.say(f"{len(sweep.points)} runs: {stand} stand, {len(left)} to do, {how.workers} at once.")
    return run_and_retry(sweep, folder, left, how)


def run_and_retry(
    sweep: Sweep, folder: SweepFolder, points: Sequence[Point], how: How
) -> list[Point]:
    """Run points, those that fail again, and return those that failed in the end."""
    failed = _run(sweep, folder, points, how)
    for _ in range(how.retries):
        again = [point for point in failed if folder.noted(point)["exit_code"] != REFUSED]
        if not again:
            break
        how.say(f"Trying {len(again)} that failed again.")
        _run(sweep, folder, again, how)
        failed = [point for point in failed if folder.status(point) not in (FINISHED, PRUNED)]
    return failed


def rule_text(sweep: Sweep) -> str:
    """Return the rule by which runs are ended, as a text; "" without one.

    Example:
        >>> from rewardlab.sweeps import read_sweep
        >>> file = getfixture("tmp_path") / "sweep.yaml"
        >>> _ = file.write_text("config: a.yaml\\ngrid: {a.x: [1, 2]}\\nfigure: gold")
        >>> rule_text(read_sweep(file))
        ''
    """
    if sweep.prune is None:
        return ""
    return json.dumps(sweep.prune._replace(medians={})._asdict(), sort_keys=True)


def _review(sweep: Sweep, folder: SweepFolder) -> None:
    """Judge the runs that stand by the sweep's rule, if another one judged them before.

    A run that was ended, and that the new rule lets be, goes on.
    """
    rule = rule_text(sweep)
    if folder.rule not in (None, rule):
        for point in sweep.points:
            if folder.status(point) in (FINISHED, PRUNED):
                watch = watch_of(sweep, folder, point)
                folder.note_verdict(point, None if watch is None else watch())
    folder.keep_rule(rule)


def words_of(sweep: Sweep, folder: SweepFolder, point: Point) -> list[str]:
    """Return a point's command, as it runs, without the program."""
    words = [*sweep.words(point), f"--out={folder.run(point)}", "--resume", "--report=false"]
    if sweep.command == "rounds":
        words.append(f"--stages={folder.stages}")
    return words


def _wait_for_earlier(sweep: Sweep, folder: SweepFolder, say: Say) -> None:
    for point in sweep.points:
        lock = folder.lock(point)
        if not lock.exists():
            continue
        with locked(lock, wait=False) as free:
            pass
        if not free:
            say(f"{point.label}, seed {point.seed}, is still run by a sweep that was killed; wait.")
            with locked(lock, wait=True):
                pass


def _run(sweep: Sweep, folder: SweepFolder, points: Sequence[Point], how: How) -> list[Point]:
    """Run points, and return those that failed."""
    by_name = {point.run: point for point in points}
    jobs = []
    watches = {}
    for point in points:
        words = [*how.program, *words_of(sweep, folder, point)]
        is_done = IsFinished(folder.run(point))
        watch = watch_of(sweep, folder, point)
        watches[point.run] = watch
        log = folder.log(point)
        lock = folder.lock(point)
        jobs.append(Job(point.run, words, log, lock, how.environment, is_done, watch))
    failed = []
    seconds = 0.0
    has_warned = False
    with closing(how.launch(jobs, how.workers)) as endings:
        for count, ended in enumerate(endings, 1):
            point = by_name[ended.job.name]
            watch = watches[point.run]
            verdict = None if watch is None else watch()
            status = folder.note_end(point, ended.code, ended.seconds, verdict)
            if status not in (FINISHED, PRUNED):
                failed.append(point)
            seconds += ended.seconds
            left = seconds / count * (len(jobs) - count) / how.workers
            sentence = _sentence(sweep, folder, point, ended)
            how.say(f"[{count}/{len(jobs)}] {sentence}; {duration(left)} left")
            warning = "" if has_warned else _warning(sweep, folder, point)
            if warning:
                how.say(warning)
                has_warned = True
    return failed


def _warning(sweep: Sweep, folder: SweepFolder, point: Point) -> str:
    """Return that a finished run has none of the readings by which runs are ended, or ""."""
    if sweep.prune is None or folder.status(point) != FINISHED:
        return ""
    reading = sweep.prune.reading
    if readings_of(folder.run(point), folder.stages, reading):
        return ""
    return (
        f"No metrics.csv of {point.label}, seed {point.seed}, has a number in the column "
        f"{reading!r}, so prune: ends nothing. Is it misspelt, or is nothing logging it?"
    )


def watch_of(sweep: Sweep, folder: SweepFolder, point: Point) -> Watch | None:
    """Return what watches a run's readings, if the sweep ends runs early."""
    if sweep.prune is None:
        return None
    medians: Mapping[Place, float] = {}
    if sweep.prune.behind and sweep.search is not None:
        medians = medians_of(_earlier_curves(sweep, sweep.search, folder, point))
    rule = sweep.prune._replace(medians=medians)
    return Watch(folder.run(point), folder.stages, rule)


def _earlier_curves(
    sweep: Sweep, search: Search, folder: SweepFolder, point: Point
) -> list[list[list[Reading]]]:
    """Return the readings of each point of the batches before a point's own, of each seed.

    Those of one that was pruned end where the rule was met, whenever it was seen.
    """
    seeds = len(sweep.seeds)
    number = sweep.points.index(point) // seeds
    first = search.batch_of(number) * search.batch
    curves = []
    for start in range(0, first * seeds, seeds):
        of_seeds = []
        for other in sweep.points[start : start + seeds]:
            reading = sweep.prune.reading if sweep.prune is not None else ""
            readings = readings_of(folder.run(other), folder.stages, reading)
            of_seeds.append(readings[: folder.noted(other).get("readings")])
        curves.append(of_seeds)
    return curves


def _sentence(sweep: Sweep, folder: SweepFolder, point: Point, ended: Ended) -> str:
    """Return what a run came to."""
    text = f"{point.label}, seed {point.seed}: "
    if folder.status(point) == FINISHED:
        value = figure_of(folder.run(point), sweep.figure)
        text += f"no {sweep.figure}" if value is None else f"{value:.4g}"
    elif folder.status(point) == PRUNED:
        text += f"{PRUNED}, {folder.noted(point)['reason']}"
    else:
        text += f"{FAILED}, {folder.log(point)} says why"
    return f"{text} ({duration(ended.seconds)})"
