"""Points as tasks of a Ray cluster."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError, reason_of
from rewardlab.sweeps.launchers import KILLED, Launch, Remote
from rewardlab.sweeps.processes import Ended, Job

OPTIONS = ("address", "num_cpus", "num_gpus", "memory", "resources")
ADDRESS = "address"
ANSWER_SECONDS = 5


def launch_of(options: Mapping[str, Any], folder: Path) -> Launch:
    """Return what runs jobs by a Ray cluster, which is connected to here.

    Args:
        options: `address` of the cluster ("auto" is the one of this machine; without it Ray starts
            one that ends with the sweep), and what each run needs: `num_cpus`, `num_gpus`,
            `memory`, `resources`.
        folder: is not used; Ray keeps its own.

    Raises:
        InputError: if an option is unknown, or the cluster cannot be reached.
    """
    import ray

    for key in options:
        if key not in OPTIONS:
            raise InputError(
                f"launcher: ray has no option {key!r}; its options are {', '.join(OPTIONS)}."
            )
    _check_reachable(options.get(ADDRESS))
    needs = {key: value for key, value in options.items() if key != ADDRESS}
    try:
        if not ray.is_initialized():
            with _sigterm_kept():
                ray.init(
                    address=options.get(ADDRESS),
                    include_dashboard=False if ADDRESS not in options else None,
                    log_to_driver=False,
                    configure_logging=False,
                )
        task = ray.remote(_call).options(max_retries=0, **needs)
    except (ConnectionError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"launcher: Ray refuses its options: {reason_of(error)}") from None

    def launch(jobs: Sequence[Job], workers: int) -> Generator[Ended, None, None]:
        return _run(task, jobs, workers)

    return launch


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Set the handler of SIGTERM again behind the block, since `ray.init` (2.60.0) replaces it.

    With Ray's, a sweep that is asked to end exits with 15 and does not say how to go on.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and handler is not None:  # None is one that was not set from Python
            signal.signal(signal.SIGTERM, handler)


def _check_reachable(address: Any) -> None:
    """Refuse a cluster that does not answer; Ray itself tries for minutes.

    Raises:
        InputError: if nothing listens at a host and port.
    """
    host, _, port = str(address).rpartition("/")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"launcher: no Ray cluster answers at {address}: {reason_of(error)}. Is it started "
            "(`ray start --head`), and is that its port?"
        ) from None


def _call(remote: Remote) -> tuple[int, float]:
    return remote()


def _run(task: Any, jobs: Sequence[Job], workers: int) -> Generator[Ended, None, None]:
    """Submit jobs in their order, so many at once, and yield each as it ends.

    Whatever ends the iteration interrupts the tasks that run, which ends their processes.
    """
    import ray

    waiting = list(jobs)
    running: dict[Any, tuple[Job, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[task.remote(Remote(job, Path.cwd()))] = (job, time.monotonic())
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                job, start = running.pop(reference)
                yield _ended(reference, job, start)
    finally:
        for reference in running:
            ray.cancel(reference)
        ray.wait(list(running), num_returns=len(running)) if running else None


def _ended(reference: Any, job: Job, start: float) -> Ended:
    """Return how a task ended; one that returned nothing lost its machine, or was killed."""
    import ray

    try:
        code, seconds = ray.get(reference)
    except Exception as error:
        with job.log.open("a", encoding="utf-8") as log:
            log.write(f"The task of the cluster left no result: {reason_of(error)}\n")
        return Ended(job, KILLED, time.monotonic() - start)
    return Ended(job, code, seconds)
