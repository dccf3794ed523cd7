"""Run the points of a sweep in local processes, none of them twice, and say how far they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from rewardlab.progress import duration
from rewardlab.runs.attempts import FAILED, FINISHED
from rewardlab.runs.locks import locked
from rewardlab.sweeps.figures import figure_of
from rewardlab.sweeps.files import Sweep
from rewardlab.sweeps.folder import SweepFolder
from rewardlab.sweeps.points import Point
from rewardlab.sweeps.processes import Ended, Job, run_jobs

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

    Example:
        >>> How(workers=2).retries
        1
    """

    workers: int = 1
    retries: int = 1
    program: Sequence[str] = PROGRAM
    say: Say = print
    environment: Mapping[str, str] = {}


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
    left = folder.left(sweep.points)
    stand = len(sweep.points) - len(left)
    how.say(f"{len(sweep.points)} runs: {stand} stand, {len(left)} to do, {how.workers} at once.")
    failed = _run(sweep, folder, left, how)
    for _ in range(how.retries):
        again = [point for point in failed if folder.noted(point)["exit_code"] != REFUSED]
        if not again:
            break
        how.say(f"Trying {len(again)} that failed again.")
        _run(sweep, folder, again, how)
        failed = [point for point in failed if folder.status(point) != FINISHED]
    return failed


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
    for point in points:
        words = [*how.program, *words_of(sweep, folder, point)]
        log = folder.log(point)
        jobs.append(Job(point.run, words, log, folder.lock(point), how.environment))
    failed = []
    seconds = 0.0
    with closing(run_jobs(jobs, how.workers)) as endings:
        for count, ended in enumerate(endings, 1):
            point = by_name[ended.job.name]
            status = folder.note_end(point, ended.code, ended.seconds)
            if status != FINISHED:
                failed.append(point)
            seconds += ended.seconds
            left = seconds / count * (len(jobs) - count) / how.workers
            sentence = _sentence(sweep, folder, point, ended)
            how.say(f"[{count}/{len(jobs)}] {sentence}; {duration(left)} left")
    return failed


def _sentence(sweep: Sweep, folder: SweepFolder, point: Point, ended: Ended) -> str:
    """Return what a run came to."""
    text = f"{point.label}, seed {point.seed}: "
    if folder.status(point) == FINISHED:
        value = figure_of(folder.run(point), sweep.figure)
        text += f"no {sweep.figure}" if value is None else f"{value:.4g}"
    else:
        text += f"{FAILED}, {folder.log(point)} says why"
    return f"{text} ({duration(ended.seconds)})"
