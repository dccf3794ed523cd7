"""Training loops and their callbacks: each is a LightningModule or a callback of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.training.adv_rm import AdvRM
    from rewardlab.training.bfloat16_adamw import BFloat16AdamW
    from rewardlab.training.diversity import Diversity
    from rewardlab.training.dpo import DPO
    from rewardlab.training.draw_by import DrawBy
    from rewardlab.training.ema import EMA
    from rewardlab.training.gan_rm import GANRM
    from rewardlab.training.gated_kl import GatedKL
    from rewardlab.training.gradient_regularization import GradientRegularization
    from rewardlab.training.online import Online
    from rewardlab.training.ppo import PPO
    from rewardlab.training.reference_reset import ReferenceReset
    from rewardlab.training.refl import ReFL
    from rewardlab.training.replay import Replay
    from rewardlab.training.resumable import Resumable
    from rewardlab.training.sft import SFT
    from rewardlab.training.shaping import Shaping
    from rewardlab.training.staleness import Importance
    from rewardlab.training.velocity import VelocityMatching

_HOMES = {
    "AdvRM": "rewardlab.training.adv_rm",
    "BFloat16AdamW": "rewardlab.training.bfloat16_adamw",
    "DPO": "rewardlab.training.dpo",
    "Diversity": "rewardlab.training.diversity",
    "DrawBy": "rewardlab.training.draw_by",
    "EMA": "rewardlab.training.ema",
    "GANRM": "rewardlab.training.gan_rm",
    "Online": "rewardlab.training.online",
    "GatedKL": "rewardlab.training.gated_kl",
    "GradientRegularization": "rewardlab.training.gradient_regularization",
    "Importance": "rewardlab.training.staleness",
    "PPO": "rewardlab.training.ppo",
    "ReFL": "rewardlab.training.refl",
    "Replay": "rewardlab.training.replay",
    "ReferenceReset": "rewardlab.training.reference_reset",
    "Resumable": "rewardlab.training.resumable",
    "SFT": "rewardlab.training.sft",
    "Shaping": "rewardlab.training.shaping",
    "VelocityMatching": "rewardlab.training.velocity",
}
__all__ = [
    "AdvRM",
    "BFloat16AdamW",
    "DPO",
    "EMA",
    "GANRM",
    "Diversity",
    "DrawBy",
    "GatedKL",
    "Importance",
    "Online",
    "PPO",
    "SFT",
    "GradientRegularization",
    "ReFL",
    "Replay",
    "ReferenceReset",
    "Resumable",
    "Shaping",
    "VelocityMatching",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
