"""Rewards that survive the optimiser they are given to: train, attack, harden and measure them in
one place.

Importing this package imports neither torch nor Lightning; each name below is loaded when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names
from rewardlab.version import __version__ as __version__

if TYPE_CHECKING:
    from rewardlab.conversations import Conversation, Message
    from rewardlab.data import TargetSamples
    from rewardlab.errors import InputError
    from rewardlab.policies import CausalLMPolicy, DiffusionPolicy, Policy, Sampler, load_policy
    from rewardlab.rewards import LanguageReward, Reward, VisionReward, load_reward
    from rewardlab.storage import as_samples
    from rewardlab.training import DPO, GANRM, PPO, SFT, AdvRM
    from rewardlab.types import PreferencePairs, Samples


_HOMES = {
    "AdvRM": "rewardlab.training",
    "CausalLMPolicy": "rewardlab.policies",
    "Conversation": "rewardlab.conversations",
    "DPO": "rewardlab.training",
    "DiffusionPolicy": "rewardlab.policies",
    "GANRM": "rewardlab.training",
    "InputError": "rewardlab.errors",
    "LanguageReward": "rewardlab.rewards",
    "Message": "rewardlab.conversations",
    "PPO": "rewardlab.training",
    "Policy": "rewardlab.policies",
    "PreferencePairs": "rewardlab.types",
    "Reward": "rewardlab.rewards",
    "SFT": "rewardlab.training",
    "Sampler": "rewardlab.policies",
    "Samples": "rewardlab.types",
    "TargetSamples": "rewardlab.data",
    "VisionReward": "rewardlab.rewards",
    "as_samples": "rewardlab.storage",
    "load_policy": "rewardlab.policies",
    "load_reward": "rewardlab.rewards",
}
__all__ = [
    "Conversation",
    "Message",
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
    "as_samples",
    "load_policy",
    "load_reward",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
