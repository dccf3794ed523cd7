"""Run folders: writing one stage by stage, and reading one again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.runs.exporting import export
    from rewardlab.runs.folder import RunFolder
    from rewardlab.runs.read import Run, read_runs
    from rewardlab.runs.stage import Stage

_HOMES = {
    "Run": "rewardlab.runs.read",
    "RunFolder": "rewardlab.runs.folder",
    "Stage": "rewardlab.runs.stage",
    "export": "rewardlab.runs.exporting",
    "read_runs": "rewardlab.runs.read",
}
__all__ = ["Run", "RunFolder", "Stage", "export", "read_runs"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
