"""Rewards: whatever scores finished outputs. Towers and their libraries are imported when a reward
first needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rewardlab.rewards.base import Reward, checked_scores

if TYPE_CHECKING:
    from rewardlab.rewards.attack import Attack
    from rewardlab.rewards.classifier import ClassifierReward
    from rewardlab.rewards.combine import Ensemble, Standardized, Weighted
    from rewardlab.rewards.functions import Brightness, Function
    from rewardlab.rewards.hub import load_reward
    from rewardlab.rewards.language import LanguageReward
    from rewardlab.rewards.novelty import Novelty
    from rewardlab.rewards.pessimism import Pessimistic
    from rewardlab.rewards.probe import prompt_probe_auc
    from rewardlab.rewards.projection import RewardProjection
    from rewardlab.rewards.relative import Relative
    from rewardlab.rewards.remote import RemoteReward
    from rewardlab.rewards.rules import Length, Repetition
    from rewardlab.rewards.vision import VisionReward

_HOME = {
    "attack": ("Attack",),
    "classifier": ("ClassifierReward",),
    "combine": ("Ensemble", "Standardized", "Weighted"),
    "functions": ("Brightness", "Function"),
    "hub": ("load_reward",),
    "language": ("LanguageReward",),
    "novelty": ("Novelty",),
    "pessimism": ("Pessimistic",),
    "probe": ("prompt_probe_auc",),
    "projection": ("RewardProjection",),
    "relative": ("Relative",),
    "remote": ("RemoteReward",),
    "rules": ("Length", "Repetition"),
    "vision": ("VisionReward",),
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


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
