"""Pseudo-labels by rank."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.types import Samples, concatenate

_log = logging.getLogger("rewardlab")
_ENDS: dict[str, tuple[Literal["top", "bottom"], ...]] = {
    "none": (),
    "top": ("top",),
    "bottom": ("bottom",),
    "both": ("top", "bottom"),
}


@dataclass(frozen=True)
class RankBootstrap:
    """Pseudo-labels from the reward's own ranking of fresh samples: GAN-RM, section 3.1.

    The r-th best gets the label exp(-αr), the r-th worst 1 - exp(-αr), r from 0. At r = ln 2/α a
    label crosses one half, and "positives" would count as negatives from there on.

    Args:
        pool: how many fresh samples are ranked; many times `count`, or the extremes are no
            extremes.
        count: M, how many are labelled at each end.
        alpha: α, how fast trust falls with rank.
        sides: ends that are labelled. "top" is self-training: it may sharpen an under-determined
            reward, and mislead a good one.
        allow_flipped: permit M > ln 2/α.

    Raises:
        InputError: if alpha or count is too small, a label would flip, or the pool is too small.

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
                "RankBootstrap needs alpha > 0 and count >= 1; "
                f"got {self.alpha:g} and {self.count}."
            )
        limit = math.floor(math.log(2) / self.alpha)
        if self.count > limit and not self.allow_flipped:
            raise InputError(
                f"RankBootstrap with alpha={self.alpha:g} gives rank r the label exp(-alpha·r), "
                f"which falls below one half beyond rank ln 2/alpha = {limit}; "
                f"count={self.count} would label some of the best samples as bad. "
                f"Take count <= {limit}, a smaller alpha, or allow_flipped=true."
            )
        if 2 * self.count > self.pool:
            raise InputError(
                f"RankBootstrap labels {self.count} at each end of a pool of {self.pool}; "
                "make the pool larger."
            )

    def labels(self, side: Literal["top", "bottom"]) -> Tensor:
        """Return the labels [M] of one end, from the extreme inwards."""
        decay = torch.exp(-self.alpha * torch.arange(self.count, dtype=torch.float32))
        return decay if side == "top" else 1 - decay

    def _check_left(self, scored: int, count: int) -> None:
        """Refuse a pool of which too few are scored, and say in the log how many are left out."""
        if scored < 2 * self.count:
            raise InputError(
                f"RankBootstrap labels {self.count} samples at each end, and {scored} of {count} "
                "are scored. Draw a larger pool, or mend what kept the reward from scoring them."
            )
        sentence = "%d of %d samples of the pool are not scored and are left out."
        _log.warning(sentence, count - scored, count)

    def __call__(self, pool: Samples, scores: Tensor, negatives: Samples) -> tuple[Samples, Tensor]:
        """Return the pseudo-labelled samples and their labels.

        Args:
            pool: fresh samples.
            scores: [pool], by the reward that was trained without them. Samples whose score is NaN,
                since they are not scored, are left out.
            negatives: samples that this reward was trained on; none of them may be in the pool,
                whose scores would be biased.

        Raises:
            InputError: if a sample of the pool is among the negatives (they share a "seed" fact),
                or too few are scored.
        """
        _check_fresh(pool, negatives)
        scored = ~scores.isnan()
        if not scored.all():
            pool = pool[scored]
            scores = scores[scored]
            self._check_left(len(pool), len(scored))
        best_first = scores.argsort(descending=True, stable=True)
        samples = []
        labels = []
        for side in _ENDS[self.sides]:
            order = best_first if side == "top" else best_first.flip(0)
            samples.append(pool[order[: self.count]])
            labels.append(self.labels(side))
        if not samples:
            return pool[:0], torch.zeros(0)
        return concatenate(samples), torch.cat(labels)


def _check_fresh(pool: Samples, negatives: Samples) -> None:
    """Refuse a pool that shares samples with the negatives."""
    pool_seeds = set(pool.facts["seed"].tolist())
    reused = pool_seeds.intersection(negatives.facts["seed"].tolist())
    if reused:
        raise InputError(
            "RankBootstrap ranks samples that the reward has not seen; "
            f"{len(reused)} of the pool were its negatives. Draw the pool with fresh seeds."
        )
