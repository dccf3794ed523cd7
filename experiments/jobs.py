"""Several commands of rewardlab at once, each with a log of its own, and how far they are."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from rewardlab.sweeps import processes

WORKERS = min(2, os.cpu_count() or 1)
HERE = Path(__file__).parent


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


def run_jobs(jobs: Sequence[Job], workers: int = WORKERS) -> int:
    """Run jobs in processes of their own, and return the exit code of the first that failed.

    It ends the others. What has ended is printed, with the time that the others take if they take
    as long.
    """
    start = time.monotonic()
    with closing(processes.run_jobs([_process(job) for job in jobs], workers)) as endings:
        for count, ended in enumerate(endings, 1):
            job = ended.job
            seconds = time.monotonic() - start
            left = seconds / count * (len(jobs) - count)
            print(
                f"[{count:2}/{len(jobs)}] {job.name}  ({seconds:.0f} s; about {left:.0f} s left)",
                flush=True,
            )
            if ended.code:
                print(f"{job.name} failed; {job.log} says why.", file=sys.stderr)
                return ended.code
    return 0


def _process(job: Job) -> processes.Job:
    """Return the process of a job; classes of `experiments` can be named in configs."""
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    job.log.unlink(missing_ok=True)
    words = [sys.executable, "-m", "rewardlab", *job.arguments]
    return processes.Job(job.name, words, job.log, environment=environment)
