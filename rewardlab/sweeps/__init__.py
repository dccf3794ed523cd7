"""Sweeps: points as flags of the command line, run in processes, and what they came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.sweeps.files import Sweep, read_sweep
    from rewardlab.sweeps.folder import SweepFolder
    from rewardlab.sweeps.points import Point
    from rewardlab.sweeps.running import How, run_points
    from rewardlab.sweeps.searching import run_search
    from rewardlab.sweeps.summary import Summary, summarize

_HOMES = {
    "How": "rewardlab.sweeps.running",
    "Point": "rewardlab.sweeps.points",
    "Summary": "rewardlab.sweeps.summary",
    "Sweep": "rewardlab.sweeps.files",
    "SweepFolder": "rewardlab.sweeps.folder",
    "read_sweep": "rewardlab.sweeps.files",
    "run_points": "rewardlab.sweeps.running",
    "run_search": "rewardlab.sweeps.searching",
    "summarize": "rewardlab.sweeps.summary",
}
__all__ = [
    "How",
    "Point",
    "Summary",
    "Sweep",
    "SweepFolder",
    "read_sweep",
    "run_points",
    "run_search",
    "summarize",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
