"""Pseudo-labels by rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.types import Samples, concatenate


@dataclass(frozen=True)
class RankBootstrap:
    """Pseudo-labels from the reward's own ranking of fresh samples. GAN-RM, section 3.1.

    The r-th best gets the label exp(-αr), the r-th worst 1 - exp(-αr), r from 0. At r = ln 2/α a
    label crosses one half, and "positives" would count as negatives from there on.

    Args:
        pool: how many fresh samples are ranked; many times `count`, or the extremes are no
            extremes.
        count: M, how many are labelled at each end.
        alpha: α, how fast trust falls with rank.
        sides: which ends are labelled. "top" is self-training: it may sharpen an under-determined
            reward, mislead a good one.
        allow_flipped: permit M > ln 2/α.

    Example:
        >>> RankBootstrap(count=3, alpha=0.1).labels("top")
        tensor([1.0000, 0.9048, 0.8187])
    """

    pool: int = 1000
    count: int = 50
    alpha: float = 0.01
    sides: Literal["none", "bottom", "top", "both"] = "both"
    allow_flipped: bool = False

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.count < 1:
            raise InputError(
                f"RankBootstrap needs alpha > 0 and count >= 1; got {self.alpha:g} and {self.count}."
            )
        limit = math.floor(math.log(2) / self.alpha)
        if self.count > limit and not self.allow_flipped:
            raise InputError(
                f"RankBootstrap with alpha={self.alpha:g} gives rank r the label exp(-alpha·r), which falls below one half "
                f"beyond rank ln 2/alpha = {limit}; count={self.count} would label some of the best samples as bad. "
                f"Take count <= {limit}, a smaller alpha, or allow_flipped=true."
            )
        if 2 * self.count > self.pool:
            raise InputError(
                f"RankBootstrap labels {self.count} at each end of a pool of {self.pool}; make the pool larger."
            )

    def labels(self, side: Literal["top", "bottom"]) -> Tensor:
        """Return the labels [M] of one end, from the extreme inwards."""
        decay = torch.exp(-self.alpha * torch.arange(self.count, dtype=torch.float32))
        return decay if side == "top" else 1 - decay

    def __call__(self, pool: Samples, scores: Tensor, negatives: Samples) -> tuple[Samples, Tensor]:
        """Return the labelled samples and their labels.

        Args:
            pool: fresh samples.
            scores: [pool], by the reward that was trained without them.
            negatives: what that reward was trained on; none of it may be in the pool, whose scores
                would be biased.

        Raises:
            InputError: if a sample of the pool is among the negatives (they share a "seed" fact).
        """
        reused = set(pool.facts["seed"].tolist()) & set(negatives.facts["seed"].tolist())
        if reused:
            raise InputError(
                f"RankBootstrap ranks samples that the reward has not seen; {len(reused)} of the pool were its negatives. "
                "Draw the pool with fresh seeds."
            )
        order = scores.argsort(descending=True, stable=True)
        ends = {"top": order[: self.count], "bottom": order.flip(0)[: self.count]}
        sides = {"none": (), "both": ("top", "bottom")}.get(self.sides, (self.sides,))
        if not sides:
            return pool[:0], torch.zeros(0)
        return concatenate([pool[ends[side]] for side in sides]), torch.cat(
            [self.labels(side) for side in sides]
        )
