"""Policies: generators that can be sampled from and scored."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rewardlab.policies.base import Policy, frozen_copy

if TYPE_CHECKING:
    from rewardlab.policies.causal_lm import CausalLMPolicy
    from rewardlab.policies.diffusion import DiffusionPolicy
    from rewardlab.policies.hub import load_policy
    from rewardlab.policies.samplers import Sampler

_HOME = {
    "causal_lm": ("CausalLMPolicy",),
    "diffusion": ("DiffusionPolicy",),
    "hub": ("load_policy",),
    "samplers": ("Sampler",),
}
__all__ = ["CausalLMPolicy", "DiffusionPolicy", "Policy", "Sampler", "frozen_copy", "load_policy"]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
