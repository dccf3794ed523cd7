"""Reports: one self-contained page, and its pictures, from run folders alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.report.advice import advise
    from rewardlab.report.page import write_report
    from rewardlab.report.run_figures import own_figures

_HOMES = {
    "advise": "rewardlab.report.advice",
    "own_figures": "rewardlab.report.run_figures",
    "write_report": "rewardlab.report.page",
}
__all__ = ["advise", "own_figures", "write_report"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
