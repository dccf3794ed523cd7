"""One thread that scores the rows of many requests in batches."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import NamedTuple

import torch

from rewardlab.errors import InputError, reason_of
from rewardlab.rewards.abilities import Partial
from rewardlab.rewards.base import Reward
from rewardlab.rewards.scoring import judged
from rewardlab.rewards.tolerant import Tolerant
from rewardlab.rewards.unscored import is_partial
from rewardlab.serving.limits import RefusalError
from rewardlab.serving.metrics import Metrics
from rewardlab.serving.rows import Row, Score, samples_of

PLACE = re.compile(r"sample \d+( \(row \d+\))?")
SMOOTHING = 0.2  # weight of the newest batch in the average of seconds a row


class Job:
    """The rows of one request.

    Attributes:
        future: gets the scores in the rows' order, or a RefusalError.
    """

    def __init__(self, count: int) -> None:
        self.future: Future[list[Score]] = Future()
        self._scores = [Score(None)] * count
        self._missing = count

    def put(self, place: int, score: Score) -> None:
        """Keep a row's score; the last one completes the future."""
        self._scores[place] = score
        self._missing -= 1
        if not self._missing:
            with suppress(InvalidStateError):  # refused meanwhile, or its client went away
                self.future.set_result(self._scores)

    def fail(self, refusal: RefusalError) -> None:
        """Refuse the request."""
        with suppress(InvalidStateError):
            self.future.set_exception(refusal)


class _Waiting(NamedTuple):
    """A row in the queue.

    Attributes:
        row: what is scored.
        job: whose it is.
        place: which of the job's rows.
        arrived: when, by the monotonic clock.
    """

    row: Row
    job: Job
    place: int
    arrived: float


class Scorer:
    """A reward with a queue: rows of different requests share a batch.

    A batch is scored as soon as it is full, or its oldest row has waited `max_wait`. A batch holds
    texts, or images of one size. A row that cannot be scored does not disturb the others.

    Args:
        name: by which requests ask for the reward.
        reward: what scores; it is not used elsewhere meanwhile.
        batch_size: most rows of a batch.
        max_wait: most seconds that a row waits for others while nothing is scored.
        queue: most rows that wait.

    Attributes:
        metrics: where batches are counted; an application gives its own.

    Raises:
        InputError: if a number is out of range.

    Example:
        >>> from rewardlab.rewards import Length
        >>> scorer = Scorer("length", Length())
        >>> job = scorer.submit([Row("hi", "hello to you")])
        >>> job.future.result(timeout=10)
        [Score(value=3.0, reason='')]
        >>> scorer.close()
    """

    def __init__(
        self,
        name: str,
        reward: Reward,
        batch_size: int = 32,
        max_wait: float = 0.005,
        queue: int = 4096,
    ) -> None:
        if batch_size < 1 or max_wait < 0:
            raise InputError(
                "A scorer needs batch_size >= 1 and max_wait >= 0; got "
                f"batch_size={batch_size} and max_wait={max_wait}."
            )
        self.name = name
        self.reward = reward if is_partial(reward) else Tolerant(reward, 1.0)
        for part in self.reward.modules():
            if isinstance(part, Partial):
                part.most_unscored = 1.0  # a row of one request ends no other's
        self.reward.eval()
        self.batch_size = batch_size
        self.max_wait = max_wait
        self.queue = queue
        self.metrics = Metrics()
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._row_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name=f"scorer-{name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how many rows wait."""
        return len(self._waiting)

    def submit(self, rows: Sequence[Row]) -> Job:
        """Queue the rows of a request.

        Raises:
            RefusalError: 429 if the queue has no room, 503 if the scorer is closed.
        """
        job = Job(len(rows))
        arrived = time.monotonic()
        with self._changed:
            if self._closed:
                raise RefusalError(503, "The server is stopping. Ask another one.")
            count = len(self._waiting)
            if count and count + len(rows) > self.queue:
                raise self._is_full(count)
            for place, row in enumerate(rows):
                self._waiting.append(_Waiting(row, job, place, arrived))
            if not count or count < self.batch_size <= len(self._waiting):
                self._changed.notify()
        return job

    def close(self) -> None:
        """Score what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _is_full(self, count: int) -> RefusalError:
        """Return the refusal of a request that finds the queue full, with when to come again."""
        seconds = max(1, math.ceil(count * self._row_seconds))
        return RefusalError(
            429,
            f"{count} texts wait for {self.name} already, of at most {self.queue}. Ask again in "
            f"{seconds} s, or send fewer at once.",
            {"Retry-After": str(seconds)},
        )

    def _run(self) -> None:
        while batch := self._next_batch():
            live = [waiting for waiting in batch if not waiting.job.future.cancelled()]
            if live:
                self._score(live)

    def _next_batch(self) -> list[_Waiting]:
        """Wait for rows, and take those of the next batch; none when the scorer is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return []
            deadline = self._waiting[0].arrived + self.max_wait
            while len(self._waiting) < self.batch_size and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._take()

    def _take(self) -> list[_Waiting]:
        """Take the oldest row and those behind it of its kind, at most a batch."""
        kind = self._waiting[0].row.kind
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        while self._waiting and len(batch) < self.batch_size:
            waiting = self._waiting.popleft()
            (batch if waiting.row.kind == kind else others).append(waiting)
        self._waiting.extendleft(reversed(others))
        return batch

    def _score(self, batch: Sequence[_Waiting]) -> None:
        """Score a batch and give each job its scores."""
        started = time.monotonic()
        try:
            scores = self._scores([waiting.row for waiting in batch])
        except Exception as error:  # a bug, or a device's: it must not end the thread
            self._fail(batch, error)
            return
        seconds = (time.monotonic() - started) / len(batch)
        self._row_seconds += SMOOTHING * (seconds - self._row_seconds)
        self.metrics.count_batch(self.name, [score.value is not None for score in scores])
        for waiting, score in zip(batch, scores, strict=True):
            waiting.job.put(waiting.place, score)

    def _scores(self, rows: Sequence[Row]) -> list[Score]:
        """Return what the reward says of rows of one kind.

        An InputError of the whole batch, such as of a server behind the reward, is each row's
        reason.
        """
        try:
            result = judged(self.reward, samples_of(rows), self.batch_size, limited=False)
        except InputError as error:
            return [Score(None, _plain(reason_of(error)))] * len(rows)
        finite = torch.isfinite(result.scores).tolist()
        scores = []
        for value, is_finite, reason in zip(
            result.scores.tolist(), finite, result.reasons, strict=True
        ):
            scores.append(Score(value) if is_finite else Score(None, _plain(reason)))
        return scores

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Refuse the request whose row is at fault, found by scoring each row alone."""
        if len(batch) > 1:
            for waiting in batch:
                self._score([waiting])
            return
        self.metrics.count_batch(self.name, [False])
        batch[0].job.fail(
            RefusalError(500, f"{self.name} failed with {type(error).__name__}: {reason_of(error)}")
        )


def _plain(reason: str) -> str:
    """Return a reason without our wrapper's name and places in a batch, which no client knows.

    Example:
        >>> _plain("Tolerant: LanguageReward cannot score sample 3: it is too long")
        'LanguageReward cannot score this one: it is too long'
    """
    return PLACE.sub("this one", reason.removeprefix("Tolerant: "))
