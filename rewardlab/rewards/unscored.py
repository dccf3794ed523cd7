"""Not scored as a value: what a reward could not judge, with the reason, and how much of it may be.

A score that is missing travels as NaN, so whatever needs it in arithmetic is missing too. What says
why it is missing are notes that parts of a reward leave while somebody listens (`listening`); a NaN
without a note is a network's own, which nobody may leave out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Partial
from rewardlab.rewards.base import Reward, checked_scores, named_sample
from rewardlab.types import Samples

_log = logging.getLogger("rewardlab")
LEAST = 100  # samples; a share is judged as if so many had been scored, where fewer were


class Judged(NamedTuple):
    """Scores of B samples, some of which may be missing.

    Attributes:
        scores: float32 [B], NaN where a sample is not scored.
        reasons: B strings, why a sample is not scored; "" where it is.

    Example:
        >>> judged = Judged(torch.tensor([0.5, float("nan")]), ["", "the server did not answer"])
        >>> judged.scored.tolist(), judged.unscored
        ([True, False], 1)
    """

    scores: Tensor
    reasons: list[str]

    @property
    def scored(self) -> Tensor:
        """Return which samples are scored, bool [B] on the CPU."""
        return torch.tensor([not reason for reason in self.reasons], dtype=torch.bool)

    @property
    def unscored(self) -> int:
        """Return how many samples are not scored."""
        return sum(map(bool, self.reasons))


class Note(NamedTuple):
    """What a part of a reward said of a batch, which need not be the whole reward's batch.

    Attributes:
        part: the part's class.
        reasons: why it did not score a sample; "" where it did.
    """

    part: str
    reasons: Sequence[str]


@dataclass
class Notes:
    """What the parts of a reward said while somebody listened.

    Attributes:
        limited: whether each part is held to its `most_unscored`.
        notes: in the order in which the parts were asked.
    """

    limited: bool
    notes: list[Note] = field(default_factory=list)

    def reasons(self, missing: Tensor) -> list[str]:
        """Return why each sample is missing, "" where it is not, or where no part said so.

        A part that saw another number of samples, such as the frames of videos, says why some of
        them are missing; its first reason stands for each.

        Args:
            missing: bool [B], samples without a score.
        """
        reasons = [""] * len(missing)
        for row in missing.nonzero().flatten().tolist():
            said = [_said(note, row, len(missing)) for note in self.notes]
            reasons[row] = next(filter(None, said), "")
        return reasons


class Tally(NamedTuple):
    """How many samples a part was asked for since the run started, and did not score."""

    asked: int
    unscored: int


_LISTENER: ContextVar[Notes | None] = ContextVar("unscored", default=None)
_TALLIES: WeakKeyDictionary[Reward, Tally] = WeakKeyDictionary()


@contextmanager
def listening(limited: bool = True) -> Iterator[Notes]:
    """Let rewards that are `Partial` leave samples out, and collect what they say of them.

    Args:
        limited: hold each of them to its `most_unscored`.
    """
    notes = Notes(limited)
    token = _LISTENER.set(notes)
    try:
        yield notes
    finally:
        _LISTENER.reset(token)


@contextmanager
def strictly() -> Iterator[None]:
    """Refuse samples that are not scored, even where somebody listens outside."""
    token = _LISTENER.set(None)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def partial_scores(reward: Reward, samples: Samples) -> Tensor:
    """Return what a `Partial` reward judges, float32 [B]: its `forward`.

    Where somebody listens, NaN stands where a sample is not scored. Elsewhere every sample has to
    be.

    Args:
        reward: one that is `Partial`.
        samples: B outputs.

    Raises:
        InputError: as `accepted`.
    """
    assert isinstance(reward, Partial)
    judged = reward.judge(samples)
    return accepted(reward, judged.scores, judged.reasons, samples)


def accepted(reward: Reward, scores: Tensor, reasons: Sequence[str], samples: Samples) -> Tensor:
    """Return scores [B] or [B, M] with NaN where a sample is not scored, and pass the reasons on.

    Args:
        reward: who scored, and is `Partial`.
        scores: of any floating dtype; what stands where a reason is given is not read.
        reasons: B strings, "" where a sample is scored.
        samples: B outputs.

    Raises:
        InputError: naming a sample that is not scored, if nobody listens or it is one too many (see
            `judged`); or a score that is not finite and for which no reason is given.
    """
    name = type(reward).__name__
    if len(reasons) != len(samples) or len(scores) != len(samples):
        raise InputError(
            f"{name}.judge has to say one score and one reason a sample, {len(samples)}; got "
            f"{len(scores)} scores and {len(reasons)} reasons."
        )
    left_out = torch.tensor([bool(reason) for reason in reasons], dtype=torch.bool)
    if not left_out.any():
        _count(reward, len(samples), 0)
        return checked_scores(scores, samples, name)
    rows = left_out.to(scores.device).view(-1, *[1] * (scores.dim() - 1))
    checked_scores(scores.masked_fill(rows, 0), samples, name)
    notes = _LISTENER.get()
    if notes is None:
        raise InputError(_refusal(name, reasons, samples))
    tally = _count(reward, len(samples), int(left_out.sum()))
    if notes.limited:
        _check_share(reward, tally, reasons, samples)
    notes.notes.append(Note(name, reasons))
    return scores.float().masked_fill(rows, torch.nan)


def judged_batch(
    reward: Reward,
    samples: Samples,
    score: Callable[[Samples], Tensor] | None = None,
    limited: bool = True,
) -> Judged:
    """Return what a reward says of one batch, with gradients where they are on.

    A reward that is made of others does not score a sample for which it needs a score that one of
    them does not give.

    Args:
        reward: any.
        samples: B outputs, on the reward's device.
        score: what is asked; the reward itself by default. `members` gives scores [B, M].
        limited: hold each part to its `most_unscored`.

    Raises:
        InputError: naming the first sample whose score is infinite, or NaN and no part said why; or
            as `accepted`.
    """
    with listening(limited) as notes:
        scores = (score or reward)(samples)
    if not notes.notes or not isinstance(scores, Tensor):
        return Judged(scores, [""] * len(samples))
    reasons = notes.reasons(_missing(scores))
    return Judged(checked_for(scores, samples, reasons, type(reward).__name__), reasons)


def checked_unless_missing(scores: Tensor, samples: Samples, scorer: str) -> Tensor:
    """Return scores [B] or [B, M] as `checked_scores`, which lets pass what a part left out.

    Args:
        scores: of any floating dtype.
        samples: what was scored.
        scorer: what scored, for the message.

    Raises:
        InputError: naming the first sample whose score is infinite, or NaN and nobody said why.
    """
    notes = _LISTENER.get()
    if notes is None or not notes.notes:
        return checked_scores(scores, samples, scorer)
    return checked_for(scores, samples, notes.reasons(_missing(scores)), scorer)


def say_left_out(judged: Judged, what: str) -> Tensor:
    """Say in the log how many samples are not scored, and return those that are, bool [B].

    Args:
        judged: what a reward said of B samples.
        what: their name, such as "candidates".

    Raises:
        InputError: if none of one or more is scored.
    """
    if not judged.unscored:
        return judged.scored
    first = judged.reasons[_first(judged.reasons)]
    count = len(judged.reasons)
    if judged.unscored == count:
        raise InputError(
            f"None of {count} {what} is scored, so nothing is left to go on with; the first: "
            f"{_ended(first)} Mend what kept the reward from scoring them."
        )
    _log.warning(
        "%d of %d %s are not scored and are left out; the first: %s",
        judged.unscored,
        count,
        what,
        first,
    )
    return judged.scored


def tallies_of(reward: Reward) -> dict[str, list[int]]:
    """Return what each `Partial` part of a reward was asked and left unscored, by its name.

    Example:
        >>> from rewardlab.rewards import Length, Tolerant
        >>> reward = Tolerant(Length())
        >>> restore_tallies(reward, {"": [40, 2]})
        >>> tallies_of(reward)
        {'': [40, 2]}
    """
    tallies = {}
    for name, part in reward.named_modules():
        if isinstance(part, Partial) and isinstance(part, Reward) and part in _TALLIES:
            tallies[name] = list(_TALLIES[part])
    return tallies


def restore_tallies(reward: Reward, tallies: Mapping[str, Sequence[int]]) -> None:
    """Let parts of a reward count on from what `tallies_of` returned; other names are passed over.

    Args:
        reward: a reward of the same parts.
        tallies: by part.
    """
    for name, part in reward.named_modules():
        if isinstance(part, Partial) and isinstance(part, Reward) and name in tallies:
            _TALLIES[part] = Tally(*tallies[name])


def is_partial(reward: Reward) -> bool:
    """Tell whether a reward, or a part that it is made of, may leave samples out.

    Example:
        >>> from rewardlab.rewards import Ensemble, Length, Tolerant
        >>> is_partial(Length()), is_partial(Ensemble([Tolerant(Length())]))
        (False, True)
    """
    return any(isinstance(part, Partial) for part in reward.modules())


def _missing(scores: Tensor) -> Tensor:
    """Return which rows of scores [B] or [B, M] lack one, bool [B]."""
    return scores.isnan().view(len(scores), -1).any(1)


def checked_for(scores: Tensor, samples: Samples, reasons: Sequence[str], scorer: str) -> Tensor:
    """Return scores in float32 if each is finite, or NaN in a row that has a reason.

    Raises:
        InputError: as `checked_scores`.
    """
    explained = torch.tensor([bool(reason) for reason in reasons], device=scores.device)
    rows = explained.view(-1, *[1] * (scores.dim() - 1))
    checked_scores(scores.masked_fill(rows & scores.isnan(), 0), samples, scorer)
    return scores.float()


def _said(note: Note, row: int, count: int) -> str:
    """Return why a part did not score a row of `count`, or ""."""
    reason = note.reasons[row] if len(note.reasons) == count else next(filter(None, note.reasons))
    return f"{note.part}: {reason}" if reason else ""


def _count(reward: Reward, asked: int, unscored: int) -> Tally:
    """Return a part's tally with a batch more, and keep it."""
    before = _TALLIES.get(reward, Tally(0, 0))
    tally = Tally(before.asked + asked, before.unscored + unscored)
    _TALLIES[reward] = tally
    return tally


def _check_share(reward: Reward, tally: Tally, reasons: Sequence[str], samples: Samples) -> None:
    """Refuse more samples that are not scored than the reward allows."""
    name = type(reward).__name__
    assert isinstance(reward, Partial)
    allowed = reward.most_unscored * max(tally.asked, LEAST)
    if tally.unscored <= allowed + 1e-9:  # 0.29 · 100 is a little less than 29
        return
    first = _first(reasons)
    where = f"{named_sample(samples, first)} with the prompt {samples.prompts[first]!r:.100}"
    if reward.most_unscored == 0:
        raise InputError(
            f"{name} did not score {where}: {_ended(reasons[first])} Each sample has to be "
            "scored, since its most_unscored is 0. Mend the cause; or allow a share to be left "
            f"out, {name}(most_unscored=0.05) or Tolerant(reward); --most-unscored of `rewardlab "
            "score`, `select` and `evaluate`."
        )
    raise InputError(
        f"{name} left {tally.unscored} of {tally.asked} samples unscored since the start, more "
        f"than most_unscored={reward.most_unscored:g} allows (of {LEAST} samples at least). The "
        f"last was {where}: {_ended(reasons[first])} Mend the cause, or allow more."
    )


def _refusal(name: str, reasons: Sequence[str], samples: Samples) -> str:
    """Return the sentence on a sample that has to be scored and is not."""
    first = _first(reasons)
    count = sum(map(bool, reasons))
    return (
        f"{name} did not score {named_sample(samples, first)} with the prompt "
        f"{samples.prompts[first]!r:.100}: {_ended(reasons[first])} It is one of {count} "
        f"such samples in {len(samples)}, and here each one has to be scored. Mend the cause; or "
        "leave such samples out first, by rewardlab.rewards.scoring.judged. Loops that draw (PPO), "
        "mining and `rewardlab score` leave them out themselves; a fit of a reward (AdvRM, GANRM) "
        "learns from every row of its file, so leave such rows out of that."
    )


def _ended(reason: str) -> str:
    """Return a reason as a sentence's end, with one mark behind it."""
    return reason if reason.endswith((".", "?", "!")) else f"{reason}."


def _first(reasons: Sequence[str]) -> int:
    return [bool(reason) for reason in reasons].index(True)
