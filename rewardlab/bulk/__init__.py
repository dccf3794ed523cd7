"""Whole files and folders: a reward's scores of each sample, and the best of each prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.bulk.entries import Entry, Reading
    from rewardlab.bulk.scoring import Scored, score_files
    from rewardlab.bulk.selecting import Selected, Selection, select_files
    from rewardlab.bulk.sources import Source, open_source

_HOMES = {
    "Entry": "rewardlab.bulk.entries",
    "Reading": "rewardlab.bulk.entries",
    "Scored": "rewardlab.bulk.scoring",
    "Selected": "rewardlab.bulk.selecting",
    "Selection": "rewardlab.bulk.selecting",
    "Source": "rewardlab.bulk.sources",
    "open_source": "rewardlab.bulk.sources",
    "score_files": "rewardlab.bulk.scoring",
    "select_files": "rewardlab.bulk.selecting",
}
__all__ = [
    "Entry",
    "Reading",
    "Scored",
    "Selected",
    "Selection",
    "Source",
    "open_source",
    "score_files",
    "select_files",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
