"""Rewards made of rewards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Calibrated, Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.types import Samples


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

    takes_trust = True
    mean: Tensor
    std: Tensor

    def __init__(self, reward: Reward, mean: float | None = None, std: float | None = None) -> None:
        super().__init__()
        self.reward = reward
        self.register_buffer("mean", torch.as_tensor(_constant(reward, "mean", mean)))
        self.register_buffer("std", torch.as_tensor(_constant(reward, "std", std)))
        if not self.std > 0:
            raise InputError(
                f"Standardized divides by the deviation of {type(reward).__name__}'s scores, which "
                f"has to be above 0; got {self.std.item()}. Give std=, or call calibrate(scores) "
                "on the reward before saving it."
            )

    def forward(self, samples: Samples) -> Tensor:
        """Return the rescaled scores, float32 [B]."""
        scores: Tensor = self.reward(samples)
        return (scores - self.mean) / self.std

    def members(self, samples: Samples) -> Tensor:
        """Return the members' rescaled scores, float32 [B, M]."""
        return (self.reward.members(samples) - self.mean) / self.std

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the constants and, into `folder`/reward, the reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        settings = {"mean": self.mean.item(), "std": self.std.item()}
        write_reward(folder, self, settings, {"reward": self.reward})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Standardized:
        """Load what `save_pretrained` wrote, in eval mode."""
        constants = read_settings(folder, "mean", "std")
        reward = load_reward(Path(folder) / "reward", trust=trust)
        return cls(reward, **constants).eval()


class Weighted(Reward, Saved):
    """The sum of rewards, each times its weight.

    Args:
        rewards: two or more, of one modality; bring them to one scale first, see `Standardized`.
        weights: one a reward; a negative one makes a penalty.

    Raises:
        InputError: if there is not one finite weight a reward.

    Example:
        >>> from rewardlab.rewards.functions import Brightness
        >>> reward = Weighted([Brightness(), Brightness()], [1.0, -0.5])
        >>> reward(Samples([""], torch.ones(1, 3, 2, 2))).item()
        0.5
    """

    takes_trust = True
    weights: Tensor

    def __init__(self, rewards: list[Reward], weights: list[float]) -> None:
        super().__init__()
        if len(rewards) != len(weights) or not rewards:
            raise InputError(
                f"Weighted needs one weight a reward; got {len(rewards)} rewards and "
                f"{len(weights)} weights."
            )
        self.rewards: Any = nn.ModuleList(rewards)
        # a buffer, so that fingerprints see it
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        if self.weights.shape != (len(rewards),) or not self.weights.isfinite().all():
            raise InputError(f"Weighted needs finite numbers as weights; got {str(weights)[:80]}.")

    def forward(self, samples: Samples) -> Tensor:
        """Return the weighted sum, float32 [B]."""
        scores = self._rows(samples)
        return self.weights.to(scores) @ scores

    def components(self, samples: Samples) -> Tensor:
        """Return the scores of each reward, without weights, float32 [B, R]."""
        return self._rows(samples).T

    def _rows(self, samples: Samples) -> Tensor:
        return torch.stack([reward(samples) for reward in self.rewards])

    def members(self, samples: Samples) -> Tensor:
        """Return the members' weighted sums, float32 [B, M].

        If one reward is an ensemble, each of its members gives one column, and the other rewards
        are added to each. If several are ensembles, each counts by its mean and M is 1.
        """
        columns = [reward.members(samples) for reward in self.rewards]
        ensembles = [column for column in columns if column.shape[1] > 1]
        if len(ensembles) > 1:
            columns = [column.mean(1, keepdim=True) for column in columns]
        widened = torch.broadcast_tensors(*columns)
        terms = []
        for weight, column in zip(self.weights, widened, strict=True):
            terms.append(weight * column)
        return torch.stack(terms).sum(0)

    def check_savable(self) -> None:
        """Refuse a part that cannot be saved."""
        check_parts(self.rewards)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights and, into `folder`/0, /1 and so on, the rewards.

        Raises:
            InputError: if one of them cannot be saved, or `folder` holds something else.
        """
        settings = {"weights": self.weights.tolist()}
        write_reward(folder, self, settings, numbered(self.rewards))

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Weighted:
        """Load what `save_pretrained` wrote, in eval mode."""
        weights = read_settings(folder, "weights")["weights"]
        return cls(load_numbered(folder, len(weights), trust), weights).eval()


class Ensemble(Reward, Saved):
    """The mean over the members of several rewards, which keep their columns.

    A reward with many heads brings as many columns, so it counts as many times in the mean.

    Args:
        rewards: one or more, of one modality and one scale.

    Raises:
        InputError: if there are none.

    Example:
        >>> from rewardlab.rewards.functions import Brightness
        >>> ensemble = Ensemble([Brightness(), Brightness()])
        >>> ensemble.members(Samples([""], torch.ones(1, 3, 2, 2))).tolist()
        [[1.0, 1.0]]
    """

    mean_of_members = True
    takes_trust = True

    def __init__(self, rewards: list[Reward]) -> None:
        super().__init__()
        if not rewards:
            raise InputError("Ensemble needs at least one reward; got an empty list.")
        self.rewards: Any = nn.ModuleList(rewards)

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over all members, float32 [B]."""
        return self.members(samples).mean(1)

    def members(self, samples: Samples) -> Tensor:
        """Return the columns of all rewards in turn, float32 [B, M]."""
        columns = [reward.members(samples) for reward in self.rewards]
        return torch.cat(columns, dim=1)

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts(self.rewards)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write their number and, into `folder`/0, /1 and so on, the rewards.

        Raises:
            InputError: if one of them cannot be saved, or `folder` holds something else.
        """
        write_reward(folder, self, {"count": len(self.rewards)}, numbered(self.rewards))

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Ensemble:
        """Load what `save_pretrained` wrote, in eval mode."""
        count = read_settings(folder, "count")["count"]
        return cls(load_numbered(folder, count, trust)).eval()


def numbered(rewards: Iterable[Any]) -> dict[str, Reward]:
    """Name each reward by its number, which its folder is called."""
    return {str(number): reward for number, reward in enumerate(rewards)}


def load_numbered(folder: str | Path, count: int, trust: bool) -> list[Reward]:
    """Load the parts of a folder, which are `count`.

    Raises:
        InputError: if the folder holds another number of them.
    """
    parts = [path for path in Path(folder).iterdir() if path.name.isdecimal() and path.is_dir()]
    if len(parts) != count:
        raise InputError(
            f"{folder} should hold {str(count)[:20]} parts, as its config says; there are "
            f"{len(parts)}. Is the config edited, or was the folder copied in part?"
        )
    return [load_reward(Path(folder) / str(number), trust=trust) for number in range(count)]


def _constant(reward: Reward, name: str, value: float | None) -> float:
    if value is not None:
        return float(value)
    if not isinstance(reward, Calibrated):
        raise InputError(
            f"Standardized needs {name}=, since {type(reward).__name__} has no constants saved "
            "with it."
        )
    return float(reward.score_mean if name == "mean" else reward.score_std)
