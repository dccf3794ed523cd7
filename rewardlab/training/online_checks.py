"""What online hardening refuses before anything is trained."""

from __future__ import annotations

from pytorch_lightning import LightningModule

from rewardlab.errors import InputError
from rewardlab.rewards.corrected import Corrected
from rewardlab.training.base import Trained
from rewardlab.training.training_scores import check_drawn
from rewardlab.types import PreferencePairs, Samples


def corrected_reward(module: LightningModule) -> Corrected:
    """Return the loop's reward.

    Raises:
        InputError: if the loop draws nothing, or its reward has no correction that can be trained.
    """
    reward = getattr(module, "reward", None)
    if reward is None or not _draws(module):
        raise InputError(
            f"Online answers what a policy draws while it climbs a reward; a "
            f"{type(module).__name__} draws nothing. Give it to PPO, ReFL or VelocityMatching."
        )
    if not isinstance(reward, Corrected):
        raise InputError(
            f"Online trains the correction of a Corrected reward; the loop climbs a "
            f"{type(reward).__name__}. Give the loop rewards.Corrected(reward, correction, weight)."
        )
    check_drawn(reward.correction, "Online")
    if not any(weight.requires_grad for weight in reward.correction.parameters()):
        raise InputError(
            f"Online trains the correction, and none of this "
            f"{type(reward.correction).__name__}'s parameters can be trained. Give one with "
            "trainable heads, such as a LanguageReward or a VisionReward."
        )
    return reward


def _draws(module: LightningModule) -> bool:
    """Tell whether a loop draws outputs: of prompts, or beside samples that anchor it."""
    if not isinstance(module, Trained):
        return False
    return module.learns_from == "prompts" or module.policy is not None


def check_numbers(every: int, updates: int, rows: int, clean_rows: int) -> None:
    """Refuse numbers that are out of range."""
    if min(every, updates, rows) < 1 or clean_rows < 0:
        raise InputError(
            "Online needs every, updates and rows of 1 or more, and clean_rows of 0 or more; got "
            f"{every}, {updates}, {rows} and {clean_rows}."
        )


def check_clean(clean: object, clean_rows: int, pairing: str) -> None:
    """Refuse another pairing, and clean rows that cannot be counted."""
    if pairing not in ("prompt", "any"):
        raise InputError(f'Online pairs by "prompt" or with "any" wanted output; got {pairing!r}.')
    if isinstance(clean, PreferencePairs) and not len(clean):
        raise InputError(
            "Online's clean pairs are 0. Were all of them filtered out? Give the pairs that the "
            "reward was fitted to, or set clean to none and clean_rows to 0."
        )
    if clean_rows and (clean is None or pairing == "any"):
        raise InputError(
            f"Online counts clean_rows={clean_rows} clean pairs an update, which needs clean= and "
            f'pairing "prompt"; got clean={type(clean).__name__} and pairing={pairing!r}. Give the '
            "pairs that the reward was fitted to, or set clean_rows to 0."
        )


def check_good(good: object) -> None:
    """Refuse a correction without wanted outputs."""
    if good is None or (isinstance(good, Samples) and not len(good)):
        raise InputError(
            "Online has nothing to hold the policy's outputs against: give it good=, such as the "
            "best of n outputs of the first policy, or target samples."
        )
