"""Points as jobs of a SLURM queue, by submitit."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import submitit

from rewardlab.errors import InputError, reason_of
from rewardlab.sweeps.launchers import KILLED, Launch, Remote
from rewardlab.sweeps.processes import Ended, Job

CLUSTER = "cluster"
CLUSTERS = ("slurm", "local")
POLL = 0.5  # seconds between two looks at the jobs; submitit asks the queue less often


class _Queued(NamedTuple):
    job: Job
    handle: Any  # submitit's Job
    start: float


@dataclass(frozen=True)
class Requeued:
    """A job that goes back into the queue when SLURM takes its machine or its time is over.

    It goes on from its checkpoints, as every point is run with `--resume`.

    Attributes:
        remote: the job.
    """

    remote: Remote

    def __call__(self) -> tuple[int, float]:
        """Run the job, and return its exit code and its seconds."""
        return self.remote()

    def checkpoint(self) -> Any:
        """Return the job as submitit submits it again."""
        return submitit.helpers.DelayedSubmission(self)


def launch_of(options: Mapping[str, Any], folder: Path) -> Launch:
    """Return what runs jobs by a queue.

    Args:
        options: submitit's, such as `timeout_min`, `gpus_per_node` and `slurm_partition`; and
            `cluster`: "slurm", or "local" for processes of this machine, to try a sweep out.
        folder: where submitit keeps its scripts and logs.

    Raises:
        InputError: if there is no SLURM, or an option is unknown.
    """
    parameters = {key: value for key, value in options.items() if key != CLUSTER}
    cluster = options.get(CLUSTER, CLUSTERS[0])
    if cluster not in CLUSTERS:
        raise InputError(f"launcher: cluster takes slurm or local; got {cluster!r}.")
    if cluster == "slurm" and shutil.which("srun") is None:
        raise InputError(
            "launcher: slurm needs SLURM's commands, and there is no srun on this machine. Start "
            "the sweep on a login node, or try it with {slurm: {cluster: local}}."
        )
    with tempfile.TemporaryDirectory(prefix="rewardlab-") as place:
        _executor(Path(place), cluster, parameters)

    def launch(jobs: Sequence[Job], workers: int) -> Generator[Ended, None, None]:
        return _run(_executor(folder, cluster, parameters), jobs, workers)

    return launch


def _executor(folder: Path, cluster: str, parameters: Mapping[str, Any]) -> Any:
    """Return submitit's executor, which makes its folder.

    Raises:
        InputError: if an option is unknown.
    """
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    try:
        executor.update_parameters(**{"name": "rewardlab", **parameters})
    except (NameError, TypeError, ValueError) as error:
        raise InputError(
            f"launcher: submitit refuses an option of slurm: {reason_of(error)}. They are those "
            "of its update_parameters, such as timeout_min, gpus_per_node and slurm_partition."
        ) from None
    return executor


def _run(executor: Any, jobs: Sequence[Job], workers: int) -> Generator[Ended, None, None]:
    """Submit jobs in their order, so many at once, and yield each as it ends.

    Whatever ends the iteration cancels the jobs that are in the queue.
    """
    waiting = list(jobs)
    queued: list[_Queued] = []
    try:
        while waiting or queued:
            while waiting and len(queued) < workers:
                job = waiting.pop(0)
                remote = Remote(job, Path.cwd())
                handle = executor.submit(Requeued(remote))
                queued.append(_Queued(job, handle, time.monotonic()))
            over = [one for one in queued if one.handle.done()]
            for one in over:
                queued.remove(one)
                yield _ended(one)
            if not over:
                time.sleep(POLL)
    finally:
        for one in queued:
            with suppress(Exception):  # one that has just ended cannot be cancelled
                one.handle.cancel()


def _ended(one: _Queued) -> Ended:
    """Return how a job ended.

    submitit's state says "FINISHED" of jobs that failed, so what it returned is read. A job that
    returned nothing was killed, or never began.
    """
    try:
        code, seconds = one.handle.result()
    except Exception as error:
        with one.job.log.open("a", encoding="utf-8") as log:
            log.write(f"The queue's job {one.handle.job_id} left no result: {reason_of(error)}\n")
        return Ended(one.job, KILLED, time.monotonic() - one.start)
    return Ended(one.job, code, seconds)
