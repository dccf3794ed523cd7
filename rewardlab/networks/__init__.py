"""What policies and rewards share of transformers: adapters, shared prompts, quiet loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.networks.silence import silent

_HOMES = {
    "silent": "rewardlab.networks.silence",
}
__all__ = [
    "silent",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
