"""Calls from many threads, answered in batches: what waits while others score is the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock

from rewardlab.exchange.answers import Answers
from rewardlab.rewards.unscored import Judged
from rewardlab.types import Samples, concatenate


class _Call:
    """Samples of one caller, and what became of them."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.answers: Answers | None = None
        self.error: Exception | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether nobody has scored them yet."""
        return self.answers is None and self.error is None

    def result(self) -> Answers:
        """Return the answers, or raise what scoring raised."""
        if self.error is not None:
            raise self.error
        assert self.answers is not None
        return self.answers


class JoinedCalls:
    """A function of samples that takes one call at a time, with waiting calls as one.

    A call that finds nobody scoring is scored at once, so a caller alone waits for nothing. Calls
    that arrive meanwhile are joined, and the first of them scores all. Where a joined call fails,
    each of its callers is scored apart, so an error reaches the one whose samples caused it.

    Args:
        answer: what is called; never by two threads at once.

    Example:
        >>> from rewardlab.exchange.answers import answers_of
        >>> from rewardlab.rewards import Length
        >>> calls = JoinedCalls(lambda samples: answers_of(Length(), samples, batch_size=8))
        >>> calls(Samples([""], ["two words"])).values()
        [2.0]
    """

    def __init__(self, answer: Callable[[Samples], Answers]) -> None:
        self.answer = answer
        self._waiting: deque[_Call] = deque()
        self._lock = Lock()

    def __call__(self, samples: Samples) -> Answers:
        """Return the answers to samples.

        Raises:
            Exception: what the function raises for them.
        """
        call = _Call(samples)
        self._waiting.append(call)
        with self._lock:
            if call.is_open:
                self._score_waiting()
        return call.result()

    def _score_waiting(self) -> None:
        """Score all calls that wait, those that can be joined as one."""
        calls = []
        while self._waiting:
            calls.append(self._waiting.popleft())
        groups: dict[object, list[_Call]] = {}
        for call in calls:
            groups.setdefault(_form_of(call.samples), []).append(call)
        for group in groups.values():
            self._score(group)

    def _score(self, calls: Sequence[_Call]) -> None:
        """Score calls as one; where that fails, one by one."""
        try:
            answers = self.answer(concatenate([call.samples for call in calls]))
        except Exception as error:  # each caller gets its own
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._score([call])
            return
        start = 0
        for call in calls:
            end = start + len(call.samples)
            call.answers = _part(answers, start, end)
            start = end


def _form_of(samples: Samples) -> object:
    """Return what samples have in common that can be joined: their facts, and sizes of images."""
    shape = getattr(samples.outputs, "shape", None)
    return tuple(sorted(samples.facts)), None if shape is None else tuple(shape[1:])


def _part(answers: Answers, start: int, end: int) -> Answers:
    """Return the answers to some of the samples."""
    judged = Judged(answers.judged.scores[start:end], answers.judged.reasons[start:end])
    if answers.disagreement is None:
        return Answers(judged, None)
    return Answers(judged, answers.disagreement[start:end])
