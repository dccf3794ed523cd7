"""Commands in processes of their own, several at once, each with a log; none outlives the caller.

A caller that is killed outright cannot end them: each then goes on alone, and holds its lock.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rewardlab.runs.locks import lock_file

POLL = 0.05  # seconds between two looks at what runs
WATCH_EVERY = 1.0  # seconds between two looks at what a run has written


class Job(NamedTuple):
    """A command to run.

    Attributes:
        name: for what is printed.
        words: the command line, the program first.
        log: the file to which what it prints is added.
        lock: a file that the process and its children hold locked as long as they live.
        environment: variables beside those of this process.
        is_done: tells whether there is nothing left to do, asked once the lock is held.
        watch: is asked now and then whether the process is to end; None goes on.
    """

    name: str
    words: Sequence[str]
    log: Path
    lock: Path | None = None
    environment: Mapping[str, str] = {}
    is_done: Callable[[], bool] | None = None
    watch: Callable[[], object | None] | None = None


class Ended(NamedTuple):
    """A job that has ended.

    Attributes:
        job: the job.
        code: its exit code; negative where a signal ended it.
        seconds: how long it took.
    """

    job: Job
    code: int
    seconds: float


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    start: float
    looked: float

    def look(self) -> None:
        """Ask the process to end, once, if whoever watches it says so."""
        now = time.monotonic()
        if self.job.watch is None or now - self.looked < WATCH_EVERY:
            return
        self.looked = now
        if self.job.watch() is not None:
            self.process.terminate()
            self.looked = math.inf


def run_jobs(jobs: Sequence[Job], workers: int) -> Generator[Ended, None, None]:
    """Run jobs in their order, so many at once, and yield each as it ends.

    Whatever ends the iteration, an exception or a signal, asks the processes that still run to end
    (SIGTERM) and waits for them.

    Args:
        jobs: what to run.
        workers: how many at once.

    Example:
        >>> import sys
        >>> log = getfixture("tmp_path") / "log.txt"
        >>> job = Job("greet", [sys.executable, "-c", "print('hello')"], log)
        >>> [ended.code for ended in run_jobs([job], workers=2)], log.read_text()
        ([0], 'hello\\n')
    """
    waiting = list(jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                started = _start(job)
                if started is None:
                    yield Ended(job, 0, 0.0)
                else:
                    running.append(started)
            over = [one for one in running if one.process.poll() is not None]
            for one in over:
                running.remove(one)
                seconds = time.monotonic() - one.start
                yield Ended(one.job, one.process.returncode, seconds)
            for one in running:
                one.look()
            if not over:
                time.sleep(POLL)
    finally:
        _end([one.process for one in running])


def _start(job: Job) -> _Running | None:
    """Start a process in a session of its own, so that Ctrl-C reaches it through us, once.

    Nothing is started where nothing is left to do.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    handle = None if job.lock is None else lock_file(job.lock, wait=True)
    handles = [] if handle is None else [handle]
    try:
        if job.is_done is not None and job.is_done():
            return None
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                list(job.words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **job.environment},
                pass_fds=handles,
                start_new_session=True,
            )
    finally:
        for one in handles:
            os.close(one)
    now = time.monotonic()
    return _Running(job, process, now, now)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and wait; a second interruption kills them."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.kill()
        raise
