"""Attackers: searches for outputs that an attack reward likes, dear and cheap ones behind one call."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardlab.attackers.edits import RandomEdits
    from rewardlab.attackers.guided import Guided
    from rewardlab.attackers.pgd import PGDAttacker
    from rewardlab.attackers.rl import RLAttacker
    from rewardlab.attackers.sampling import BestOfN, HighTemperature

_HOME = {
    "BestOfN": "sampling",
    "Guided": "guided",
    "HighTemperature": "sampling",
    "PGDAttacker": "pgd",
    "RLAttacker": "rl",
    "RandomEdits": "edits",
}
__all__ = ["BestOfN", "Guided", "HighTemperature", "PGDAttacker", "RLAttacker", "RandomEdits"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
