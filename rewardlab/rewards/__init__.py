"""Rewards: whatever scores finished outputs.

Towers and their libraries are imported when a reward first needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names
from rewardlab.rewards.abilities import (
    Calibrated,
    DrawsNoise,
    EmbedsTokens,
    FrozenFeatures,
    HeadInputs,
    Partial,
    PromptFeatures,
    Saved,
    StartsAtZero,
    TextLikelihood,
)
from rewardlab.rewards.base import Reward, checked_scores

if TYPE_CHECKING:
    from rewardlab.rewards.aesthetic import AestheticReward
    from rewardlab.rewards.attack import Attack
    from rewardlab.rewards.bottleneck import Bottleneck, Certainty
    from rewardlab.rewards.classifier import ClassifierReward
    from rewardlab.rewards.combine import Ensemble, Standardized, Weighted
    from rewardlab.rewards.corrected import Corrected
    from rewardlab.rewards.debiasing import Debiased
    from rewardlab.rewards.folders import load_reward
    from rewardlab.rewards.framewise import Framewise
    from rewardlab.rewards.functions import Brightness, Fact, Function
    from rewardlab.rewards.gated import Gated
    from rewardlab.rewards.image_reward import ImageReward
    from rewardlab.rewards.language import LanguageReward
    from rewardlab.rewards.member import Member
    from rewardlab.rewards.novelty import Novelty, Outliers
    from rewardlab.rewards.panel import Panel
    from rewardlab.rewards.pessimism import Cautious, Pessimistic, SoftMinimum
    from rewardlab.rewards.probe import prompt_probe_auc
    from rewardlab.rewards.projection import RewardProjection
    from rewardlab.rewards.relative import Relative
    from rewardlab.rewards.remote import RemoteReward
    from rewardlab.rewards.rules import Length, Repetition
    from rewardlab.rewards.scoring import member_scores, scores_of
    from rewardlab.rewards.similarity import SimilarityReward
    from rewardlab.rewards.text_functions import TextFunction, TRLFunction
    from rewardlab.rewards.tolerant import Tolerant
    from rewardlab.rewards.unscored import Judged
    from rewardlab.rewards.vision import VisionReward

_HOMES = {
    "AestheticReward": "rewardlab.rewards.aesthetic",
    "Attack": "rewardlab.rewards.attack",
    "Bottleneck": "rewardlab.rewards.bottleneck",
    "Brightness": "rewardlab.rewards.functions",
    "Cautious": "rewardlab.rewards.pessimism",
    "Certainty": "rewardlab.rewards.bottleneck",
    "ClassifierReward": "rewardlab.rewards.classifier",
    "Corrected": "rewardlab.rewards.corrected",
    "Debiased": "rewardlab.rewards.debiasing",
    "Ensemble": "rewardlab.rewards.combine",
    "Fact": "rewardlab.rewards.functions",
    "Framewise": "rewardlab.rewards.framewise",
    "Function": "rewardlab.rewards.functions",
    "Gated": "rewardlab.rewards.gated",
    "ImageReward": "rewardlab.rewards.image_reward",
    "LanguageReward": "rewardlab.rewards.language",
    "Judged": "rewardlab.rewards.unscored",
    "Length": "rewardlab.rewards.rules",
    "Member": "rewardlab.rewards.member",
    "Novelty": "rewardlab.rewards.novelty",
    "Outliers": "rewardlab.rewards.novelty",
    "Panel": "rewardlab.rewards.panel",
    "Pessimistic": "rewardlab.rewards.pessimism",
    "Relative": "rewardlab.rewards.relative",
    "RemoteReward": "rewardlab.rewards.remote",
    "Repetition": "rewardlab.rewards.rules",
    "RewardProjection": "rewardlab.rewards.projection",
    "SimilarityReward": "rewardlab.rewards.similarity",
    "SoftMinimum": "rewardlab.rewards.pessimism",
    "Standardized": "rewardlab.rewards.combine",
    "TRLFunction": "rewardlab.rewards.text_functions",
    "TextFunction": "rewardlab.rewards.text_functions",
    "Tolerant": "rewardlab.rewards.tolerant",
    "VisionReward": "rewardlab.rewards.vision",
    "Weighted": "rewardlab.rewards.combine",
    "load_reward": "rewardlab.rewards.folders",
    "member_scores": "rewardlab.rewards.scoring",
    "prompt_probe_auc": "rewardlab.rewards.probe",
    "scores_of": "rewardlab.rewards.scoring",
}
__all__ = [
    "AestheticReward",
    "Attack",
    "Bottleneck",
    "Brightness",
    "Calibrated",
    "Cautious",
    "Certainty",
    "ClassifierReward",
    "Corrected",
    "Debiased",
    "DrawsNoise",
    "EmbedsTokens",
    "Ensemble",
    "Fact",
    "Framewise",
    "FrozenFeatures",
    "Function",
    "Gated",
    "HeadInputs",
    "ImageReward",
    "Judged",
    "LanguageReward",
    "Length",
    "Member",
    "Novelty",
    "Outliers",
    "Panel",
    "Partial",
    "Pessimistic",
    "PromptFeatures",
    "Relative",
    "RemoteReward",
    "Repetition",
    "Reward",
    "RewardProjection",
    "Saved",
    "SimilarityReward",
    "SoftMinimum",
    "Standardized",
    "StartsAtZero",
    "TRLFunction",
    "TextFunction",
    "TextLikelihood",
    "Tolerant",
    "VisionReward",
    "Weighted",
    "checked_scores",
    "load_reward",
    "member_scores",
    "prompt_probe_auc",
    "scores_of",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
