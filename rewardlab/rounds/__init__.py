"""Outer loops: GAN-RM's and Adv-RM's rounds, resumable stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.rounds.adv_rm import AdvRMRounds
    from rewardlab.rounds.attacking import AttackAndMine, Mining
    from rewardlab.rounds.base import Rounds
    from rewardlab.rounds.gan_rm import GANRMRounds
    from rewardlab.rounds.hardening import OnlineHardening
    from rewardlab.rounds.reweighting import Reweighting
    from rewardlab.rounds.stages import FitReward, PostTrain
    from rewardlab.rounds.tether import Tether
    from rewardlab.runs.folder import RunFolder

_HOMES = {
    "AdvRMRounds": "rewardlab.rounds.adv_rm",
    "AttackAndMine": "rewardlab.rounds.attacking",
    "FitReward": "rewardlab.rounds.stages",
    "GANRMRounds": "rewardlab.rounds.gan_rm",
    "Mining": "rewardlab.rounds.attacking",
    "OnlineHardening": "rewardlab.rounds.hardening",
    "PostTrain": "rewardlab.rounds.stages",
    "Reweighting": "rewardlab.rounds.reweighting",
    "Rounds": "rewardlab.rounds.base",
    "RunFolder": "rewardlab.runs.folder",
    "Tether": "rewardlab.rounds.tether",
}
_EARLIER = {"AdvRM": "AdvRMRounds", "GANRM": "GANRMRounds"}
__all__ = [
    "AdvRMRounds",
    "AttackAndMine",
    "FitReward",
    "GANRMRounds",
    "Mining",
    "OnlineHardening",
    "PostTrain",
    "Reweighting",
    "Rounds",
    "RunFolder",
    "Tether",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES, _EARLIER)
