"""Corrected: a reward plus a member that is trained while a policy climbs both."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.types import Samples

CONSTANTS = ("offset", "scale", "first_deviation")


class Corrected(Reward, Saved):
    """A reward plus a correction that `rewardlab.training.Online` trains inside the loop.

    score = reward + weight · scale · (correction - offset). The correction tells outputs that are
    wanted from those that the policy draws now; where it can, the policy has left what is wanted.
    At its optimum the correction is log π_good/π, so a policy that climbs the sum is held to π_good
    by a KL that is learned from samples (docs/mathematics/online.md). Afterwards it is an ordinary
    reward: saved, loaded, attacked and scored whole.

    Args:
        reward: what is corrected and stays as it is; none maximizes the correction alone, which is
            a discriminator in the loop (Adv-GRPO, arXiv 2511.20256).
        correction: what is trained in the loop.
        weight: what one unit of the correction, a nat of log-odds, is worth in the reward's units.
        keep_deviation: rescale the correction after each update, so that its deviation on fixed
            references stays what it was before the first.

    Raises:
        InputError: if the weight is not a positive finite number.

    Example:
        >>> from rewardlab.rewards import Length, Repetition
        >>> reward = Corrected(Length(), Repetition(n=1), weight=2.0)
        >>> reward(Samples(["", ""], ["one two", "of of"])).tolist()
        [2.0, 1.0]
    """

    takes_trust = True
    offset: Tensor
    scale: Tensor
    first_deviation: Tensor

    def __init__(
        self,
        reward: Reward | None,
        correction: Reward,
        weight: float = 1.0,
        keep_deviation: bool = False,
    ) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(
                "Corrected takes a weight above 0, the units of the reward that one unit of the "
                f"correction is worth; got {weight!r}. Without a correction take the reward alone."
            )
        self.reward = reward
        self.correction = correction
        self.weight = float(weight)
        self.keep_deviation = keep_deviation
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("first_deviation", torch.zeros(()))

    def forward(self, samples: Samples) -> Tensor:
        """Return the reward plus its correction, float32 [B]."""
        correction = self._scaled(self.correction(samples))
        if self.reward is None:
            return correction
        score: Tensor = self.reward(samples) + correction
        return score

    def members(self, samples: Samples) -> Tensor:
        """Return the members' scores, float32 [B, M], each plus the correction.

        Without a reward they are the correction's members.
        """
        if self.reward is None:
            return self._scaled(self.correction.members(samples))
        members: Tensor = self.reward.members(samples)
        return members + self._scaled(self.correction(samples))[:, None]

    @torch.no_grad()
    def settle(self, scores: Tensor) -> None:
        """Bring the correction back to mean 0 on fixed references, after an update.

        So readings before and after an update are in one unit. With `keep_deviation` the deviation
        is brought back too, to that of the first call.

        Args:
            scores: [N], the correction's scores of the references.

        Raises:
            InputError: if a deviation is to be kept and all scores are alike.
        """
        deviation, mean = torch.std_mean(scores.detach().double(), correction=0)
        self.offset.copy_(mean)
        if not self.keep_deviation:
            return
        if not deviation > 0:
            raise InputError(
                f"The correction scores all {len(scores)} references alike, so it has no deviation "
                "to keep. Is it untrained? Fit it first, or set keep_deviation to false."
            )
        if self.first_deviation == 0:
            self.first_deviation.copy_(deviation)
        self.scale.copy_(self.first_deviation / deviation)

    def check_savable(self) -> None:
        """Refuse a part that cannot be saved."""
        check_parts(self._parts().values())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the constants and, into folders of their own, reward and correction.

        Raises:
            InputError: if one of them cannot be saved, or `folder` holds something else.
        """
        settings = {name: getattr(self, name).item() for name in CONSTANTS}
        settings |= {"weight": self.weight, "keep_deviation": self.keep_deviation}
        write_reward(folder, self, settings, self._parts())

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Corrected:
        """Load what `save_pretrained` wrote, in eval mode."""
        settings = read_settings(folder, "weight", "keep_deviation", *CONSTANTS)
        reward = None
        if (Path(folder) / "reward").is_dir():
            reward = load_reward(Path(folder) / "reward", trust=trust)
        correction = load_reward(Path(folder) / "correction", trust=trust)
        corrected = cls(reward, correction, settings["weight"], settings["keep_deviation"])
        for name in CONSTANTS:
            getattr(corrected, name).fill_(settings[name])
        return corrected.eval()

    def _parts(self) -> dict[str, Reward]:
        parts = {"correction": self.correction}
        if self.reward is not None:
            parts["reward"] = self.reward
        return parts

    def _scaled(self, scores: Tensor) -> Tensor:
        return self.weight * self.scale * (scores - self.offset)
