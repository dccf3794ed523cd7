"""Rewards made of rewards."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Calibrated, Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import CONFIG, load_reward, read_config, save_parts
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples

HOME = "rewardlab.rewards"


class Standardized(Reward, Saved):
    """(score - mean) / std with constants that do not depend on the batch or the prompt.

    It brings rewards of different scale together. It leaves the offset that a reward may have for
    each prompt.

    Args:
        reward: the reward whose scores are rescaled.
        mean: of its scores; the reward's own saved `score_mean` if not given.
        std: of its scores, above 0; the reward's own saved `score_std` if not given.

    Raises:
        InputError: if a constant is neither given nor saved with the reward, or `std` is not above
            0.

    Example:
        >>> from rewardlab.rewards.functions import Brightness
        >>> reward = Standardized(Brightness(), mean=0.5, std=0.1)
        >>> round(reward(Samples([""], torch.full((1, 3, 2, 2), 0.7))).item(), 4)
        2.0
    """

    def __init__(self, reward: Reward, mean: float | None = None, std: float | None = None) -> None:
        super().__init__()
        self.reward = reward
        self.register_buffer("mean", torch.as_tensor(_constant(reward, "mean", mean)))
        self.register_buffer("std", torch.as_tensor(_constant(reward, "std", std)))
        if not self.std > 0:
            raise InputError(
                f"Standardized divides by the deviation of {type(reward).__name__}'s scores, which has to be above 0; "
                f"got {self.std.item()}. Give std=, or call calibrate(scores) on the reward before saving it."
            )

    def forward(self, samples: Samples) -> Tensor:
        return (self.reward(samples) - self.mean) / self.std

    def members(self, samples: Samples) -> Tensor:
        return (self.reward.members(samples) - self.mean) / self.std

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the constants and, into `folder`/reward, the reward, whole or not at all."""
        with new_folder(folder) as fresh:
            save_parts(fresh, {"reward": self.reward})
            constants = {"mean": self.mean.item(), "std": self.std.item()}
            write_json(fresh / CONFIG, {"class_path": f"{HOME}.Standardized", **constants})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Standardized:
        """Load what `save_pretrained` wrote, in eval mode."""
        config = read_config(folder)
        return cls(load_reward(Path(folder) / "reward"), config["mean"], config["std"]).eval()


class Weighted(Reward, Saved):
    """The sum of rewards, each times its weight.

    Args:
        rewards: two or more, of one modality; bring them to one scale first, see `Standardized`.
        weights: one a reward; a negative one makes a penalty.

    Raises:
        InputError: if there is not one weight a reward.

    Example:
        >>> from rewardlab.rewards.functions import Brightness
        >>> reward = Weighted([Brightness(), Brightness()], [1.0, -0.5])
        >>> reward(Samples([""], torch.ones(1, 3, 2, 2))).item()
        0.5
    """

    def __init__(self, rewards: list[Reward], weights: list[float]) -> None:
        super().__init__()
        if len(rewards) != len(weights) or not rewards:
            raise InputError(
                f"Weighted needs one weight a reward; got {len(rewards)} rewards and {len(weights)} weights."
            )
        self.rewards = nn.ModuleList(rewards)
        self.register_buffer(
            "weights", torch.tensor(weights, dtype=torch.float32)
        )  # so that fingerprints see them

    def forward(self, samples: Samples) -> Tensor:
        scores = torch.stack([reward(samples) for reward in self.rewards])
        return self.weights.to(scores) @ scores

    def members(self, samples: Samples) -> Tensor:
        """Return the sum for each column [B, M] of the one part that has several; its disagreement,
        so, stays to be seen.

        Parts that all have several are not the same ensemble's, so they give one column.
        """
        columns = [reward.members(samples) for reward in self.rewards]
        if sum(column.shape[1] > 1 for column in columns) > 1:
            columns = [column.mean(1, keepdim=True) for column in columns]
        return torch.stack(
            [
                weight * column
                for weight, column in zip(
                    self.weights, torch.broadcast_tensors(*columns), strict=True
                )
            ]
        ).sum(0)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights and, into `folder`/0, /1 and so on, the rewards, whole or not at all."""
        with new_folder(folder) as fresh:
            save_parts(fresh, {str(i): reward for i, reward in enumerate(self.rewards)})
            write_json(
                fresh / CONFIG, {"class_path": f"{HOME}.Weighted", "weights": self.weights.tolist()}
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Weighted:
        """Load what `save_pretrained` wrote, in eval mode."""
        weights = read_config(folder)["weights"]
        return cls(
            [load_reward(Path(folder) / str(i)) for i in range(len(weights))], weights
        ).eval()


class Ensemble(Reward):
    """The mean over the members of several rewards, which keep their columns.

    A reward with many heads brings as many columns, so it counts as many times in the mean.

    Args:
        rewards: one or more, of one modality and one scale.

    Raises:
        InputError: if there are none.

    Example:
        >>> from rewardlab.rewards.functions import Brightness
        >>> Ensemble([Brightness(), Brightness()]).members(Samples([""], torch.ones(1, 3, 2, 2))).tolist()
        [[1.0, 1.0]]
    """

    mean_of_members = True

    def __init__(self, rewards: list[Reward]) -> None:
        super().__init__()
        if not rewards:
            raise InputError("Ensemble needs at least one reward; got an empty list.")
        self.rewards = nn.ModuleList(rewards)

    def forward(self, samples: Samples) -> Tensor:
        return self.members(samples).mean(1)

    def members(self, samples: Samples) -> Tensor:
        return torch.cat([reward.members(samples) for reward in self.rewards], dim=1)


def _constant(reward: Reward, name: str, value: float | None) -> float:
    if value is not None:
        return float(value)
    saved = getattr(reward, f"score_{name}") if isinstance(reward, Calibrated) else None
    if saved is None:
        raise InputError(
            f"Standardized needs {name}=, since {type(reward).__name__} has no constants saved with it."
        )
    return float(saved)
