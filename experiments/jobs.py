"""Several commands of rewardlab at once, each with a log of its own, and how far they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

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

    What has ended is printed, with the time that the others take if they take as long.
    """
    start = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(_run, job): job for job in jobs}
        for count, ended in enumerate(as_completed(running), 1):
            job = running[ended]
            seconds = time.monotonic() - start
            left = seconds / count * (len(jobs) - count)
            print(
                f"[{count:2}/{len(jobs)}] {job.name}  ({seconds:.0f} s; about {left:.0f} s left)",
                flush=True,
            )
            if ended.result():
                pool.shutdown(cancel_futures=True)
                print(f"{job.name} failed; {job.log} says why.", file=sys.stderr)
                return ended.result()
    return 0


def _run(job: Job) -> int:
    """Run a job, and return its exit code; classes of `experiments` can be named in configs."""
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rewardlab", *job.arguments]
    with job.log.open("w", encoding="utf-8") as log:
        done = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        )
    return done.returncode
