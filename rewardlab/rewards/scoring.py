"""Scoring more samples than fit into one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.progress import counted
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.unscored import (
    Judged,
    checked_for,
    is_partial,
    judged_batch,
    say_left_out,
    strictly,
)
from rewardlab.types import Samples

BATCH = 256


class Scores(NamedTuple):
    """What a reward says of B samples.

    Attributes:
        scores: float32 [B], `forward`; what ranks.
        members: float32 [B, M], for disagreement.
    """

    scores: Tensor
    members: Tensor


def scores_of(reward: Reward, samples: Samples, batch_size: int = BATCH) -> Tensor:
    """Return the reward's `forward` of many samples, in batches: float32 [B] on the CPU.

    This is the score that ranks, mines and judges, and that loops raise. Every sample has to be
    scored; `judged` leaves out what a `Partial` reward does not score.

    Raises:
        InputError: naming the first sample whose score is NaN or infinite, or that a `Partial`
            reward did not score, with its reason.

    Example:
        >>> from rewardlab.rewards import Length
        >>> scores_of(Length(), Samples(["hi", "hi"], ["hello to you", "go"])).tolist()
        [3.0, 1.0]
    """
    with strictly():
        scores = in_batches(reward, reward.forward, samples, batch_size)
    return checked_scores(scores, samples, type(reward).__name__)


def judged(
    reward: Reward, samples: Samples, batch_size: int = BATCH, limited: bool = True
) -> Judged:
    """Return the reward's `forward` of many samples, and why a sample has none, on the CPU.

    Only `Partial` rewards, and what is made of them, leave a sample out: where one part does not
    give a score that is needed, the sample has none, and the reason names the part. NaN from a
    network is an error, as in `scores_of`.

    Each `Partial` part is held to its own share. It counts what it was asked for and what it left
    out since the process started, wherever it was asked, and ends the run once it left out more
    than most_unscored · max(asked, 100) samples. So with 0.05 the sixth failure ends a run within
    its first 120 samples, one failure in a batch of 2 does not, and at 0 the first ends it.

    Args:
        reward: any; of one that is not `Partial` every sample is scored.
        samples: B outputs.
        batch_size: samples scored at once.
        limited: whether parts are held to their share; a server, which must not end by requests,
            says no.

    Raises:
        InputError: as `scores_of`, or if more samples than the share are not scored.

    Example:
        >>> from rewardlab.rewards import Length
        >>> judged(Length(), Samples(["hi"], ["hello to you"]))
        Judged(scores=tensor([3.]), reasons=[''])
    """
    return judged_by(reward, reward.forward, samples, batch_size, limited)


def judged_by(
    reward: Reward,
    method: Callable[[Samples], Tensor],
    samples: Samples,
    batch_size: int = BATCH,
    limited: bool = True,
) -> Judged:
    """Return the same of another method of a reward, such as `members`: scores [B, ...].

    A sample is not scored where one of its columns is missing.
    """
    reasons: list[str] = []

    def score(batch: Samples) -> Tensor:
        result = judged_batch(reward, batch, method, limited)
        reasons.extend(result.reasons)
        return result.scores

    scores = in_batches(reward, score, samples, batch_size)
    return Judged(checked_for(scores, samples, reasons, type(reward).__name__), reasons)


class Scored(NamedTuple):
    """Samples that are scored, with their scores [n] or [n, M]."""

    samples: Samples
    scores: Tensor


def scored_part(samples: Samples, judged: Judged, what: str) -> Scored:
    """Return the samples that are scored, and say in the log how many are not.

    Args:
        samples: B outputs.
        judged: what a reward said of them.
        what: their name in the log, such as "references".

    Raises:
        InputError: if none is scored.
    """
    rows = say_left_out(judged, what)
    if rows.all():
        return Scored(samples, judged.scores)
    return Scored(samples[rows], judged.scores[rows])


def member_scores(reward: Reward, samples: Samples, batch_size: int = BATCH) -> Tensor:
    """Return the members' scores of many samples, in batches: float32 [B, M] on the CPU.

    They say how far the members of an ensemble disagree. `scores_of` is what ranks.

    Raises:
        InputError: naming the first sample whose score is NaN or infinite.

    Example:
        >>> from rewardlab.rewards import Ensemble, Length, Repetition
        >>> both = Ensemble([Length(), Repetition()])
        >>> member_scores(both, Samples([""], ["of of of of of"])).tolist()
        [[5.0, -0.75]]
    """
    with strictly():
        members = in_batches(reward, reward.members, samples, batch_size)
    return checked_scores(members, samples, type(reward).__name__)


def scores_and_members(reward: Reward, samples: Samples, batch_size: int = BATCH) -> Scores:
    """Return `scores_of` and `member_scores`, in one pass where the reward allows it."""
    if reward.mean_of_members:
        members = member_scores(reward, samples, batch_size)
        return Scores(members.mean(1), members)
    scores = scores_of(reward, samples, batch_size)
    if type(reward).members is Reward.members:
        return Scores(scores, scores[:, None])
    return Scores(scores, member_scores(reward, samples, batch_size))


def scored_members(reward: Reward, samples: Samples, what: str) -> Scores:
    """Return `scores_and_members` of the samples that are scored, and log how many are not.

    Args:
        reward: any.
        samples: B outputs.
        what: their name in the log.

    Raises:
        InputError: if none is scored.
    """
    if not is_partial(reward):
        return scores_and_members(reward, samples)
    scores = judged(reward, samples)
    if type(reward).members is Reward.members:
        left = scored_part(samples, scores, what).scores
        return Scores(left, left[:, None])
    members = judged_by(reward, reward.members, samples)
    pairs = zip(scores.reasons, members.reasons, strict=True)
    reasons = [of_score or of_member for of_score, of_member in pairs]
    columns = torch.cat([scores.scores[:, None], members.scores], 1)
    table = scored_part(samples, Judged(columns, reasons), what).scores
    return Scores(table[:, 0], table[:, 1:])


@torch.no_grad()
def in_batches(
    reward: Reward, method: Callable[[Samples], Tensor], samples: Samples, batch_size: int = BATCH
) -> Tensor:
    """Return what a method of `reward` gives for each sample, [B, ...] on the CPU, in eval mode.

    Raises:
        InputError: if there is no sample.

    Example:
        >>> from rewardlab.rewards.rules import Length
        >>> reward = Length()
        >>> samples = Samples(["hi", "hi"], ["hello to you", "go"])
        >>> in_batches(reward, reward.forward, samples, batch_size=1).tolist()
        [3.0, 1.0]
    """
    if not len(samples):
        raise InputError(
            f"{type(reward).__name__} was asked to score no samples at all. Were all of them left "
            "out before? Score at least one."
        )
    was_training = reward.training
    reward.eval()
    device = device_of_reward(reward)
    starts = range(0, len(samples), batch_size)
    quiet = None if len(starts) > 4 else True
    parts = []
    for start in counted(starts, len(samples), "scoring", hidden=quiet):
        rows = samples[start : start + batch_size]
        batch = rows.to(device, non_blocking=device.type == "cuda")
        parts.append(method(batch).cpu())
    reward.train(was_training)
    return torch.cat(_as_wide(parts))


def _as_wide(parts: list[Tensor]) -> list[Tensor]:
    """Return batches' columns, as many of those in which nothing is scored as of the others.

    How many members a reward has is not known before one sample is scored.
    """
    widest = max(parts, key=lambda part: part[0].numel())
    wide = []
    for part in parts:
        is_missing = part.shape[1:] != widest.shape[1:] and bool(_lacks(part).all())
        wide.append(
            part.new_full((len(part), *widest.shape[1:]), torch.nan) if is_missing else part
        )
    return wide


def _lacks(part: Tensor) -> Tensor:
    """Return which rows of a batch lack a column, bool [B]."""
    return part.reshape(len(part), -1).isnan().any(1)


def device_of_reward(reward: Reward) -> torch.device:
    """Return where a reward's parameters are; the CPU for one without any, such as a rule.

    Example:
        >>> from rewardlab.rewards.rules import Length
        >>> device_of_reward(Length())
        device(type='cpu')
    """
    return next((parameter.device for parameter in reward.parameters()), torch.device("cpu"))
