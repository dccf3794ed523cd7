"""Panel: rewards on towers of several families, trained and scored side by side."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Calibrated, FrozenFeatures
from rewardlab.rewards.base import set_score_scale
from rewardlab.rewards.combine import Ensemble, load_numbered, numbered
from rewardlab.rewards.folders import CONFIG, write_reward
from rewardlab.rewards.vision import VisionReward
from rewardlab.storage.class_files import read_json
from rewardlab.types import Samples


class Panel(Ensemble, FrozenFeatures, Calibrated):
    """VisionRewards on frozen towers of several families, as one reward that is trained at once.

    What one family overlooks another may see, so the members' disagreement says more than that of
    heads on one tower. The features of all towers stand side by side in one row, so they are
    computed once and cached like those of one tower. Each member has its own heads and its own
    scale of features; the score is the mean over all heads.

    Args:
        rewards: two or more VisionRewards with unlocked_groups=0.

    Raises:
        InputError: if a reward is of another kind, or trains its tower.

    Example:
        >>> from rewardlab.testing import tiny_tower
        >>> members = [VisionReward(tiny_tower(seed), heads=2, width=8) for seed in range(2)]
        >>> Panel(members).members(Samples([""], torch.rand(1, 3, 16, 16))).shape
        torch.Size([1, 4])
    """

    takes_trust = False

    def __init__(self, rewards: list[VisionReward]) -> None:
        super().__init__(list(rewards))
        for reward in rewards:
            if not isinstance(reward, VisionReward) or reward.tower.unlocked_groups:
                raise InputError(
                    "A Panel is made of VisionRewards on frozen towers (unlocked_groups=0); got a "
                    f"{type(reward).__name__}."
                )
        self.meaning = "untrained"
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_std", torch.zeros(()))

    def features(self, samples: Samples) -> Tensor:
        """Return the members' features side by side, float32 [B, D1 + D2 + …]."""
        return torch.cat([reward.features(samples) for reward in self.rewards], dim=1)

    def score_features(self, features: Tensor) -> Tensor:
        """Return all heads' logits, float32 [B, M], from `features`.

        Raises:
            InputError: if the features are of another length.
        """
        columns = []
        for reward, part in zip(self.rewards, self._parts(features), strict=True):
            columns.append(reward.score_features(part))
        return torch.cat(columns, dim=1)

    def fit_feature_scale(self, features: Tensor) -> None:
        """Set each member's standardisation constants from `features` of both classes together."""
        for reward, part in zip(self.rewards, self._parts(features), strict=True):
            reward.fit_feature_scale(part)

    def frozen_fingerprint(self) -> str:
        """Return a hash of all that `features` depends on beside the samples."""
        return "+".join(reward.frozen_fingerprint() for reward in self.rewards)

    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of the generator's own samples.

        Raises:
            InputError: if they are not finite or all equal.
        """
        set_score_scale(self, scores)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the members with their towers into `folder`/0, /1 and so on, whole or not at all.

        Raises:
            InputError: if `folder` holds something else, or a tower's architecture is not known.
        """
        settings = {
            "count": len(self.rewards),
            "meaning": self.meaning,
            "score_mean": self.score_mean.item(),
            "score_std": self.score_std.item(),
        }
        write_reward(folder, self, settings, numbered(self.rewards))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Panel:  # type: ignore[override]
        """Load what `save_pretrained` wrote, in eval mode.

        Raises:
            InputError: if files are missing, broken or edited.
        """
        config = read_json(Path(folder) / CONFIG)
        try:
            rewards = load_numbered(folder, config["count"], trust=False)
            panel = cls(rewards)  # type: ignore[arg-type]
            panel.meaning = str(config["meaning"])
            panel.score_mean.fill_(config["score_mean"])
            panel.score_std.fill_(config["score_std"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{Path(folder) / CONFIG} is not what save_pretrained wrote: {error}. Is it edited?"
            ) from error
        return panel.eval()

    def _parts(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return each member's features."""
        widths = []
        for reward in self.rewards:
            image = reward.tower.width
            widths.append(2 * image if reward.conditional else image)
        if features.dim() != 2 or features.shape[1] != sum(widths):
            raise InputError(
                f"This Panel takes features [B, {sum(widths)}]; got {list(features.shape)}. Were "
                "they cached from other towers?"
            )
        parts: tuple[Tensor, ...] = features.split(widths, dim=1)
        return parts
