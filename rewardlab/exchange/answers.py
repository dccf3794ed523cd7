"""What trainers are told of samples: scores, why one is missing, and how far members disagree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.rewards.base import Reward
from rewardlab.rewards.scoring import in_batches, judged
from rewardlab.rewards.unscored import Judged, judged_batch
from rewardlab.types import Samples


class Answers(NamedTuple):
    """What a reward says of B samples, on the CPU.

    Attributes:
        judged: scores and reasons.
        disagreement: float32 [B], the standard deviation of the members' scores, NaN where a sample
            is not scored; None of a reward that has one member.
    """

    judged: Judged
    disagreement: Tensor | None

    def values(self) -> list[float | None]:
        """Return the scores as numbers, None where a sample is not scored."""
        return _numbers(self.judged.scores)

    def disagreements(self) -> list[float | None]:
        """Return the disagreements as numbers, None where there is none."""
        if self.disagreement is None:
            return [None] * len(self.judged.reasons)
        return _numbers(self.disagreement)


def answers_of(reward: Reward, samples: Samples, batch_size: int) -> Answers:
    """Return the scores of samples with the members' disagreement, in batches and in eval mode.

    One pass gives both where the reward's score is the mean of its members.

    Raises:
        InputError: if a sample cannot be scored, and the reward may not leave it out.

    Example:
        >>> from rewardlab.rewards import Ensemble, Length, Repetition
        >>> both = Ensemble([Length(), Repetition()])
        >>> answers = answers_of(both, Samples([""], ["of of of of of"]), batch_size=8)
        >>> answers.values(), answers.disagreement
        ([2.125], tensor([4.0659]))
    """
    if type(reward).members is Reward.members:
        return Answers(judged(reward, samples, batch_size), None)
    members = _judged_members(reward, samples, batch_size)
    disagreement = _disagreement(members.scores)
    if reward.mean_of_members:
        return Answers(Judged(members.scores.mean(1), members.reasons), disagreement)
    return Answers(judged(reward, samples, batch_size), disagreement)


def _judged_members(reward: Reward, samples: Samples, batch_size: int) -> Judged:
    """Return the members' scores [B, M], NaN where a sample is not scored, and the reasons."""
    reasons: list[str] = []

    def score(batch: Samples) -> Tensor:
        result = judged_batch(reward, batch, reward.members)
        reasons.extend(result.reasons)
        return result.scores

    return Judged(in_batches(reward, score, samples, batch_size), reasons)


def _disagreement(members: Tensor) -> Tensor | None:
    if members.shape[1] < 2:
        return None
    return members.std(1)


def _numbers(values: Tensor) -> list[float | None]:
    numbers: list[float | None] = []
    for value, is_missing in zip(values.tolist(), torch.isnan(values).tolist(), strict=True):
        numbers.append(None if is_missing else value)
    return numbers
