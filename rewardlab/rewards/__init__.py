"""Rewards: whatever scores finished outputs. Towers and their libraries are imported when a reward
first needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names
from rewardlab.rewards.base import Reward, checked_scores

if TYPE_CHECKING:
    from rewardlab.rewards.attack import Attack
    from rewardlab.rewards.classifier import ClassifierReward
    from rewardlab.rewards.combine import Ensemble, Standardized, Weighted
    from rewardlab.rewards.folders import load_reward
    from rewardlab.rewards.functions import Brightness, Function
    from rewardlab.rewards.language import LanguageReward
    from rewardlab.rewards.novelty import Novelty
    from rewardlab.rewards.pessimism import Pessimistic
    from rewardlab.rewards.probe import prompt_probe_auc
    from rewardlab.rewards.projection import RewardProjection
    from rewardlab.rewards.relative import Relative
    from rewardlab.rewards.remote import RemoteReward
    from rewardlab.rewards.rules import Length, Repetition
    from rewardlab.rewards.vision import VisionReward

_HOMES = {
    "Attack": "rewardlab.rewards.attack",
    "Brightness": "rewardlab.rewards.functions",
    "ClassifierReward": "rewardlab.rewards.classifier",
    "Ensemble": "rewardlab.rewards.combine",
    "Function": "rewardlab.rewards.functions",
    "LanguageReward": "rewardlab.rewards.language",
    "Length": "rewardlab.rewards.rules",
    "Novelty": "rewardlab.rewards.novelty",
    "Pessimistic": "rewardlab.rewards.pessimism",
    "Relative": "rewardlab.rewards.relative",
    "RemoteReward": "rewardlab.rewards.remote",
    "Repetition": "rewardlab.rewards.rules",
    "RewardProjection": "rewardlab.rewards.projection",
    "Standardized": "rewardlab.rewards.combine",
    "VisionReward": "rewardlab.rewards.vision",
    "Weighted": "rewardlab.rewards.combine",
    "load_reward": "rewardlab.rewards.folders",
    "prompt_probe_auc": "rewardlab.rewards.probe",
}
__all__ = [
    "Attack",
    "Brightness",
    "ClassifierReward",
    "Ensemble",
    "Function",
    "LanguageReward",
    "Length",
    "Novelty",
    "Pessimistic",
    "Relative",
    "RemoteReward",
    "Repetition",
    "Reward",
    "RewardProjection",
    "Standardized",
    "VisionReward",
    "Weighted",
    "checked_scores",
    "load_reward",
    "prompt_probe_auc",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
