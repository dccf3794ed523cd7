"""What killed processes left half written in a run's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from rewardlab.runs.layout import REPORT_PAGE, SCRATCH_FOLDER
from rewardlab.runs.locks import locked

PARTIAL = ".*.partial"
CHECKPOINTS = "checkpoints"


def remove_partial_files(run: Path) -> None:
    """Remove half-written files and folders of a run, whose lock the caller holds.

    A report's page is left, since `rewardlab report` writes it without the lock.
    """
    partials = list(run.glob(PARTIAL))
    for folder in (SCRATCH_FOLDER, CHECKPOINTS):
        partials += (run / folder).rglob(PARTIAL)
    for partial in partials:
        if not partial.name.startswith(f".{REPORT_PAGE}."):
            _remove(partial)


def remove_partial_stages(stages: Path) -> None:
    """Remove half-made stages, unless another run is making them."""
    for partial in stages.glob(PARTIAL):
        lock = stages / f"{partial.name.rsplit('.', 2)[0]}.lock"
        with locked(lock, wait=False) as free:
            if free:
                _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
