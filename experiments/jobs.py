"""Several commands of rewardlab at once, each with a log of its own, and how far they are.

Each is a process that was forked from one that had loaded what all of them need, which takes more
seconds than many a stage.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from rewardlab.cli import main as rewardlab

WORKERS = min(2, os.cpu_count() or 1)
HERE = Path(__file__).parent
PRELOADED = ["rewardlab.commands.rounds", "rewardlab.rounds", "rewardlab.training"]


class Job(NamedTuple):
    """A command to run.

    Attributes:
        name: for what is printed.
        arguments: of `rewardlab`.
        log: the file that takes what it prints.
    """

    name: str
    arguments: list[str]
    log: Path


class Ended(NamedTuple):
    """A job that has ended, with its exit code; negative where a signal ended it."""

    job: Job
    code: int


def run_jobs(jobs: Sequence[Job], workers: int = WORKERS) -> int:
    """Run jobs in processes of their own, and return the exit code of the first that failed.

    It ends the others. What has ended is printed, with the time that the others take if they take
    as long.
    """
    start = time.monotonic()
    with closing(_endings(jobs, workers)) as endings:
        for count, (job, code) in enumerate(endings, 1):
            seconds = time.monotonic() - start
            left = seconds / count * (len(jobs) - count)
            print(
                f"[{count:2}/{len(jobs)}] {job.name}  ({seconds:.0f} s; about {left:.0f} s left)",
                flush=True,
            )
            if code:
                print(f"{job.name} failed; {job.log} says why.", file=sys.stderr)
                return code
    return 0


def _endings(jobs: Sequence[Job], workers: int) -> Generator[Ended, None, None]:
    """Run jobs in their order, so many at once, and yield each as it ends.

    Whatever ends the iteration asks the processes that still run to end, and waits for them.
    """
    waiting = list(jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_started(waiting.pop(0)))
            wait([one.process.sentinel for one in running])
            for one in [one for one in running if one.process.exitcode is not None]:
                running.remove(one)
                yield Ended(one.job, one.process.exitcode or 0)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join()


class _Running(NamedTuple):
    job: Job
    process: ForkServerProcess


def _started(job: Job) -> _Running:
    """Start a job's process; classes of `experiments` can be named in its config."""
    job.log.unlink(missing_ok=True)
    if str(HERE) not in sys.path:  # the process looks for this module where we do
        sys.path.append(str(HERE))
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(job,))
    process.start()
    return _Running(job, process)


def _run(job: Job) -> None:
    """Run a job in this process, in a session of its own: Ctrl-C reaches it through us, once."""
    os.setsid()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with Path(os.devnull).open() as nothing, job.log.open("ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(rewardlab(job.arguments))
