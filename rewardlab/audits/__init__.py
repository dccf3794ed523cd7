"""Audits: attack a reward, or climb it by best of n, and say in one sentence what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.audits.attack import AttackAudit, AttackResult
    from rewardlab.audits.attackers import make_attacker
    from rewardlab.audits.curve import CurveAudit, CurveResult

_HOMES = {
    "AttackAudit": "rewardlab.audits.attack",
    "AttackResult": "rewardlab.audits.attack",
    "CurveAudit": "rewardlab.audits.curve",
    "CurveResult": "rewardlab.audits.curve",
    "make_attacker": "rewardlab.audits.attackers",
}
__all__ = ["AttackAudit", "AttackResult", "CurveAudit", "CurveResult", "make_attacker"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
