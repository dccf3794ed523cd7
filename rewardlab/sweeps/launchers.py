"""What runs the points of a sweep: processes of this machine, a SLURM queue, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.runs.attempts import FINISHED
from rewardlab.runs.layout import FACTS_FILE
from rewardlab.runs.records import read_record
from rewardlab.sweeps.processes import Ended, Job, run_jobs

Launch = Callable[[Sequence[Job], int], Generator[Ended, None, None]]

LOCAL = "local"
SLURM = "slurm"
RAY = "ray"
PACKAGES = {SLURM: "submitit", RAY: "ray"}
KILLED = -9  # the exit code of a run whose machine gave none


class Launcher(NamedTuple):
    """What runs points.

    Attributes:
        name: "local", "slurm" or "ray".
        options: of slurm, those of submitit's `update_parameters`, and `cluster`; of ray, those of
            `OPTIONS` in `ray_cluster`.
    """

    name: str
    options: Mapping[str, Any]


def read_launcher(content: Any) -> Launcher:
    """Return what a sweep file's `launcher:` says.

    Raises:
        InputError: naming what is wrong.

    Example:
        >>> read_launcher("local")
        Launcher(name='local', options={})
        >>> read_launcher({"slurm": {"timeout_min": 60}}).options
        {'timeout_min': 60}
    """
    names = (LOCAL, *PACKAGES)
    options: Any = {}
    name = content
    if isinstance(content, Mapping) and len(content) == 1:
        [(name, options)] = content.items()
    if name not in names or not isinstance(options, Mapping):
        raise InputError(
            f"launcher: takes {', '.join(names)}, or one of them with its options, such as "
            f"{{slurm: {{timeout_min: 60}}}}; got {content!r:.80}."
        )
    if name == LOCAL and options:
        raise InputError(f"launcher: local has no options; got {dict(options)!r:.60}.")
    return Launcher(name, options)


def opened(launcher: Launcher, folder: Path) -> Launch:
    """Return the function that runs jobs, after all that can be wrong with a launcher was checked.

    Args:
        launcher: which.
        folder: where a launcher may keep files of its own; it is made when the first job starts.

    Raises:
        InputError: if a package, a command or a cluster is not there, or an option is wrong.
    """
    if launcher.name == LOCAL:
        return run_jobs
    package = PACKAGES[launcher.name]
    if find_spec(package) is None:
        raise InputError(
            f"launcher: {launcher.name} needs {package}, which is not installed: pip install "
            f"'rewardlab[{launcher.name}]'."
        )
    if launcher.name == SLURM:
        from rewardlab.sweeps.slurm import launch_of
    else:
        from rewardlab.sweeps.ray_cluster import launch_of
    return launch_of(launcher.options, folder)


@dataclass(frozen=True)
class IsFinished:
    """A call tells whether a run is finished.

    Attributes:
        run: its folder.
    """

    run: Path

    def __call__(self) -> bool:
        """Tell whether the run is finished."""
        return read_record(self.run / FACTS_FILE).get("status") == FINISHED


class Remote(NamedTuple):
    """A job that is run by a call, on whatever machine that is made.

    The job waits for its lock, so that one which an earlier sweep left in a queue is never run
    beside it. Folders have to be on a file system that all machines share.

    Attributes:
        job: the job.
        folder: the working directory of the sweep.
    """

    job: Job
    folder: Path

    def __call__(self) -> tuple[int, float]:
        """Run the job, and return its exit code and its seconds."""
        os.chdir(self.folder)
        [ended] = run_jobs([self.job], 1)
        return ended.code, ended.seconds
