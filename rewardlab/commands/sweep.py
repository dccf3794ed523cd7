"""`rewardlab sweep`: check every point of a sweep's file, run them, and say which is best."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from rewardlab.commands import early
from rewardlab.commands.mistakes import unknown_flags
from rewardlab.errors import InputError
from rewardlab.runs.attempts import FINISHED
from rewardlab.storage.atomic import write_atomically
from rewardlab.sweeps.figures import figures_in
from rewardlab.sweeps.files import Sweep, read_sweep
from rewardlab.sweeps.folder import PAGE, PRUNED, SweepFolder
from rewardlab.sweeps.launchers import LOCAL, opened
from rewardlab.sweeps.running import How, run_points
from rewardlab.sweeps.searching import chosen_points, run_search
from rewardlab.sweeps.summary import Summary, summarize, write_summary

THREADS = "OMP_NUM_THREADS"
NAMED = 5  # figures that are named where the one that was asked for is not there


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sentence = unknown_flags(message, self._option_string_actions)
        raise InputError(sentence or f"{message}. `rewardlab sweep --help` shows the flags.")


def run(command: str, argv: Sequence[str]) -> int:
    """Check everything, and only then touch the sweep's folder and start."""
    flags = parse(argv)
    sweep = read_sweep(flags.file)
    folder = SweepFolder(flags.out, flags.stages)
    folder.check(flags.resume)
    to_check = points_to_check(sweep, folder)
    _check_early(to_check)
    from rewardlab.commands import sweep_checks

    print(f"Building {len(to_check.points)} runs, to see that all are right.", flush=True)
    sweep_checks.check_points(to_check, folder)
    if flags.dry_run:
        return sweep_checks.rehearse_points(to_check, folder)
    how = how_of(flags, sweep, folder)
    folder.open(sweep.text)
    go = run_points if sweep.search is None else run_search
    try:
        failed = go(sweep, folder, how)
    finally:
        sweep = chosen_points(sweep, folder)
        page = write_pages(sweep, folder)
    print("\n".join(sentences(sweep, folder, summarize(sweep, folder))))
    print(page)
    return 1 if failed else 0


def points_to_check(sweep: Sweep, folder: SweepFolder) -> Sweep:
    """Return a sweep with the points to build first: of a search, the ends, and what it chose."""
    if sweep.search is None:
        return sweep
    seeds = len(sweep.seeds)
    ends = [*sweep.points[:seeds], *sweep.points[::seeds]]
    points = {point.run: point for point in [*ends, *chosen_points(sweep, folder).points]}
    return replace(sweep, points=list(points.values()))


def _say(text: str) -> None:
    print(text, flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = _Parser(prog="rewardlab sweep", allow_abbrev=False)
    add = parser.add_argument
    add("file", type=Path, metavar="SWEEP.yaml")
    add("--out", type=Path, help="the sweep's folder; runs/ and the file's name by default")
    add("--resume", action="store_true", help="go on in a folder that the sweep made")
    add("--jobs", type=int, default=1, help="runs at once")
    add("--retries", type=int, default=1, help="tries more of what failed")
    add("--stages", type=Path, help="folder of finished stages; stages/ in --out by default")
    add("--dry-run", action="store_true", help="rehearse every point; write nothing")
    flags = parser.parse_args(argv)
    flags.out = flags.out or Path("runs", flags.file.stem)
    for name, least in (("jobs", 1), ("retries", 0)):
        if getattr(flags, name) < least:
            raise InputError(f"--{name} is at least {least}; got {getattr(flags, name)}.")
    return flags


def how_of(flags: argparse.Namespace, sweep: Sweep, folder: SweepFolder) -> How:
    """Return how points are run: several at once share the processors, unless told otherwise.

    Raises:
        InputError: if the launcher's package or cluster is not there.
    """
    launch = opened(sweep.launcher, folder.queue)
    environment = {}
    if sweep.launcher.name == LOCAL and flags.jobs > 1 and THREADS not in os.environ:
        environment[THREADS] = str(max(1, (os.cpu_count() or 1) // flags.jobs))
        _say(f"Each run gets {THREADS}={environment[THREADS]}, as {flags.jobs} run at once.")
    return How(flags.jobs, flags.retries, say=_say, environment=environment, launch=launch)


def _check_early(sweep: Sweep) -> None:
    """Refuse what files, names and sources tell of a point, before torch is imported."""
    for point in sweep.points:
        if point.seed == sweep.seeds[0]:
            command, *words = sweep.words(point)
            try:
                early.check(command, words)
            except InputError as error:
                raise InputError(f"The sweep's point {point.label}: {error}") from None


def write_pages(sweep: Sweep, folder: SweepFolder) -> Path:
    """Write summary.csv and the page, and return the page's path."""
    from rewardlab.report.sweep_page import sweep_page

    summary = summarize(sweep, folder)
    write_summary(summary, folder)
    write_atomically(folder.path / PAGE, sweep_page(folder.path.name, summary.data()))
    return folder.path / PAGE


def sentences(sweep: Sweep, folder: SweepFolder, summary: Summary) -> list[str]:
    """Return what is printed at the end: the best point with its command, and what failed."""
    lines = []
    for trouble in summary.troubles:
        log = f" ({trouble.log})" if trouble.log and trouble.status != PRUNED else ""
        lines.append(f"{trouble.label}: {trouble.status}. {trouble.reason}{log}")
    best = summary.best
    if best is None or best.interval is None:
        return [*lines, *_without_figure(sweep, folder)]
    ends = best.interval
    between = "" if ends.low is None else f" [{ends.low:.4g}, {ends.high:.4g}]"
    level = len(summary.level)
    lines.append(f"Best of {len(summary.settings)}: {best.label}, {ends.mean:.4g}{between}.")
    if level:
        lines.append(f"Of the others, {level} cannot be told apart from it over these seeds.")
    return [*lines, best.command]


def _without_figure(sweep: Sweep, folder: SweepFolder) -> list[str]:
    """Return what to say where no run has the figure: which figures there are."""
    stand = [point for point in sweep.points if folder.status(point) == FINISHED]
    if not stand:
        return ["No run is finished, so nothing is compared."]
    from difflib import get_close_matches

    names = figures_in(folder.run(stand[0]))
    near = get_close_matches(sweep.figure, names, NAMED, 0.3) or names[:NAMED]
    return [
        f"No finished run has a finite {sweep.figure}. There are {', '.join(near) or 'none'}. "
        f"Change figure: in the sweep's file; with --resume no run is made anew."
    ]
