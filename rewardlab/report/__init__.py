"""Reports: one self-contained page, and its pictures, from run folders alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.report.page import write_report

_HOMES = {
    "write_report": "rewardlab.report.page",
}
__all__ = ["write_report"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
