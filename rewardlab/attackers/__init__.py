"""Attackers: searches for outputs that an attack reward likes, all behind one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.attackers.edits import RandomEdits
    from rewardlab.attackers.guided import Guided
    from rewardlab.attackers.pgd import PGDAttacker
    from rewardlab.attackers.rl import RLAttacker
    from rewardlab.attackers.sampling import BestOfN, HighTemperature
    from rewardlab.attackers.token_gradient import TokenGradient

_HOMES = {
    "BestOfN": "rewardlab.attackers.sampling",
    "Guided": "rewardlab.attackers.guided",
    "HighTemperature": "rewardlab.attackers.sampling",
    "PGDAttacker": "rewardlab.attackers.pgd",
    "RLAttacker": "rewardlab.attackers.rl",
    "RandomEdits": "rewardlab.attackers.edits",
    "TokenGradient": "rewardlab.attackers.token_gradient",
}
__all__ = [
    "BestOfN",
    "Guided",
    "HighTemperature",
    "PGDAttacker",
    "RLAttacker",
    "RandomEdits",
    "TokenGradient",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
