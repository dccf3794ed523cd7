"""Outer loops: GAN-RM's rounds, resumable stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.rounds.adv_rm import AdvRM, AttackAndMine
    from rewardlab.rounds.gan_rm import GANRM
    from rewardlab.rounds.stages import FitReward, PostTrain
    from rewardlab.runs.folder import RunFolder

_HOMES = {
    "AdvRM": "rewardlab.rounds.adv_rm",
    "AttackAndMine": "rewardlab.rounds.adv_rm",
    "FitReward": "rewardlab.rounds.stages",
    "GANRM": "rewardlab.rounds.gan_rm",
    "PostTrain": "rewardlab.rounds.stages",
    "RunFolder": "rewardlab.runs.folder",
}
__all__ = ["AdvRM", "AttackAndMine", "FitReward", "GANRM", "PostTrain", "RunFolder"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
