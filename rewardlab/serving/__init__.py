"""Rewards behind HTTP: one scorer a reward, and six dialects over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.serving.app import RewardApp
    from rewardlab.serving.limits import Limits
    from rewardlab.serving.rows import Row, Score
    from rewardlab.serving.scorer import Scorer
    from rewardlab.serving.server import RewardServer

_HOMES = {
    "Limits": "rewardlab.serving.limits",
    "RewardApp": "rewardlab.serving.app",
    "RewardServer": "rewardlab.serving.server",
    "Row": "rewardlab.serving.rows",
    "Score": "rewardlab.serving.rows",
    "Scorer": "rewardlab.serving.scorer",
}
__all__ = [
    "Limits",
    "RewardApp",
    "RewardServer",
    "Row",
    "Score",
    "Scorer",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
