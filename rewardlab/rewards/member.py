"""One member of an ensemble as a reward of its own."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.types import Samples


class Member(Reward, Saved):
    """One member of an ensemble as a reward of its own.

    It makes a target or a witness of one head among several that share a backbone.

    Args:
        reward: whose column is taken.
        index: which, from 0.

    Raises:
        InputError: on use, if there are fewer members.

    Example:
        >>> from rewardlab.rewards import Ensemble
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> Member(Ensemble([Length(), Repetition()]), 1)(Samples([""], ["of of of of of"])).item()
        -0.75
    """

    takes_trust = True

    def __init__(self, reward: Reward, index: int) -> None:
        super().__init__()
        self.reward = reward
        self.index = index

    def forward(self, samples: Samples) -> Tensor:
        """Return the member's score, float32 [B].

        Raises:
            InputError: if there are fewer members.
        """
        members = self.reward.members(samples)
        if not 0 <= self.index < members.shape[1]:
            raise InputError(
                f"Member(index={self.index}) of a {type(self.reward).__name__} with "
                f"{members.shape[1]} members."
            )
        return members[:, self.index]

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the index and, into `folder`/reward, the whole reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        write_reward(folder, self, {"index": self.index}, {"reward": self.reward})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Member:
        """Load what `save_pretrained` wrote, in eval mode."""
        index = read_settings(folder, "index")["index"]
        return cls(load_reward(Path(folder) / "reward", trust=trust), index).eval()
