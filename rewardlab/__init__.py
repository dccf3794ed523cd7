"""Rewards that survive the optimiser they are given to: train, attack, harden and measure them in
one place.

Importing this package imports neither torch nor Lightning; each name below is loaded when it is
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardlab.data import TargetSamples
    from rewardlab.errors import InputError
    from rewardlab.policies import CausalLMPolicy, DiffusionPolicy, Policy, Sampler, load_policy
    from rewardlab.rewards import LanguageReward, Reward, VisionReward, load_reward
    from rewardlab.training import DPO, GANRM, PPO, SFT, AdvRM
    from rewardlab.types import PreferencePairs, Samples

__version__ = "0.1.0"

_HOME = {
    "rewardlab.data": ("TargetSamples",),
    "rewardlab.errors": ("InputError",),
    "rewardlab.policies": ("CausalLMPolicy", "DiffusionPolicy", "Policy", "Sampler", "load_policy"),
    "rewardlab.rewards": ("LanguageReward", "Reward", "VisionReward", "load_reward"),
    "rewardlab.training": ("AdvRM", "DPO", "GANRM", "PPO", "SFT"),
    "rewardlab.types": ("PreferencePairs", "Samples"),
}
__all__ = [
    "DPO",
    "GANRM",
    "PPO",
    "SFT",
    "AdvRM",
    "CausalLMPolicy",
    "DiffusionPolicy",
    "InputError",
    "LanguageReward",
    "Policy",
    "PreferencePairs",
    "Reward",
    "Sampler",
    "Samples",
    "TargetSamples",
    "VisionReward",
    "load_policy",
    "load_reward",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'rewardlab' has no attribute {name!r}")
