"""Training loops and their callbacks: each is a LightningModule or a callback of its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardlab.training.adv_rm import AdvRM
    from rewardlab.training.dpo import DPO
    from rewardlab.training.ema import EMA
    from rewardlab.training.gan_rm import GANRM
    from rewardlab.training.ppo import PPO
    from rewardlab.training.refl import ReFL
    from rewardlab.training.resumable import Resumable
    from rewardlab.training.sft import SFT
    from rewardlab.training.shaping import Shaping

_HOME = {
    "AdvRM": "adv_rm",
    "DPO": "dpo",
    "EMA": "ema",
    "GANRM": "gan_rm",
    "PPO": "ppo",
    "ReFL": "refl",
    "Resumable": "resumable",
    "SFT": "sft",
    "Shaping": "shaping",
}
__all__ = ["AdvRM", "DPO", "EMA", "GANRM", "PPO", "SFT", "ReFL", "Resumable", "Shaping"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"rewardlab.training.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
