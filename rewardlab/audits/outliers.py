"""MOP of an attack: the share of its outputs that lie outside of what the policy writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.evaluation.intervals import wilson
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.novelty import Outliers
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples

FEWEST = 40  # references, of which a half fits and calibrates a distance
LEVEL = 0.01  # of the references so many are outliers, where there are enough to tell


def check_outliers(features: Reward | None, references: int) -> None:
    """Refuse a reward without frozen features to tell outliers by, and too few references.

    Args:
        features: the reward; None where no outliers are counted.
        references: outputs of the policy, of all prompts together.

    Raises:
        InputError: saying which rewards have features, or how many references are needed.
    """
    if features is None:
        return
    if references < FEWEST:
        raise InputError(
            f"--outliers needs {FEWEST} references of all prompts together, and 198 for the level "
            f"0.01; got {references}. Give more prompts, or more --references of each."
        )
    if frozen_features(features) is None:
        raise InputError(
            f"--outliers tells outliers by frozen features, and a {type(features).__name__} has "
            "none. Give the folder of a reward on a frozen backbone, such as a LanguageReward or a "
            "VisionReward that was fitted with its backbone frozen."
        )


def outlier_figures(
    features: Reward, references: Samples, sides: Mapping[str, Samples], seed: int
) -> dict[str, Any]:
    """Return MOP of each side's outputs, by `rewards.Outliers` on the references.

    arXiv 2510.13694. No judge is asked. Of outputs that are drawn as the references were, a share
    of at most `level` is expected.

    Args:
        features: a reward with frozen features.
        references: outputs of the policy, half of which calibrate.
        sides: outputs by the name of what made them.
        seed: of the choice of those that calibrate.

    Returns:
        "level", which is above 0.01 where there are fewer than 198 references; "references", their
        number; and of each side the share with Wilson's interval, whose units are prompts.
    """
    calibrating = round(len(references) / 2)
    level = max(LEVEL, (1 + 1e-6) / (1 + calibrating))  # 1e-6 is more than float32 rounds by
    outliers = Outliers(features.eval(), references, level=level, seed=seed)
    figures: dict[str, Any] = {"level": level, "references": len(references)}
    for side, samples in sides.items():
        by_prompt: dict[Prompt, list[float]] = {}
        scores = (-scores_of(outliers, samples)).tolist()
        for prompt, is_outlier in zip(samples.prompts, scores, strict=True):
            by_prompt.setdefault(prompt, []).append(is_outlier)
        shares = torch.tensor([sum(values) / len(values) for values in by_prompt.values()])
        figures[side] = asdict(wilson(shares.mean().item(), len(shares)))
    return figures
