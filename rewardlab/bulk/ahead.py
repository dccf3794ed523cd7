"""Batches that are made ready by threads while the reward scores the ones before.

Decoding, resizing and stacking let go of Python's lock, so threads suffice. They start at once,
need no shared memory, and raise what they raise (docs/decisions, "decoded ahead").
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.bulk.entries import Entry, Numbered, samples_of
from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.preprocessing import preprocessing_of
from rewardlab.types import Samples

BATCHES = 2  # made ready beside the one that is scored
MOST_THREADS = 8  # the lock lets about five decode JPEGs of 640x480 at once


class Ready(NamedTuple):
    """A batch that can be scored.

    Attributes:
        rows: numbers of its B rows.
        reasons: B strings, why a row cannot be read; "" where it can.
        samples: the rows that can be read, in their order; None if there are none.
    """

    rows: list[int]
    reasons: list[str]
    samples: Samples | None

    @property
    def has_pictures(self) -> bool:
        """Tell whether there are pictures or videos."""
        return self.samples is not None and isinstance(self.samples.outputs, Tensor)


Prepare = Callable[[Samples], Samples]


def made_ready(
    batches: Iterable[Sequence[Numbered]],
    reward: Reward,
    *,
    skip_unreadable: bool = False,
    threads: int | None = None,
) -> Generator[Ready]:
    """Give batches in their order, each made ready while the ones before are scored.

    At most `BATCHES` batches beside the scored one are in memory.

    Args:
        batches: rows that are not yet decoded.
        reward: the one that scores. For one on the CPU the threads resize and normalize pictures,
            too; for one on a GPU they put them into pinned memory.
        skip_unreadable: leave a row that cannot be read unscored, with the reason.
        threads: how many decode; by default one less than there are cores, at most `MOST_THREADS`.
            With 0 a batch is made ready when its turn comes.

    Raises:
        InputError: when the turn of a batch comes in which a row cannot be read.
    """
    prepare = _preparation(reward)
    if threads == 0:
        for batch in batches:
            yield ready(batch, skip_unreadable)
        return
    waiting: deque[Future[Ready]] = deque()
    pool = ThreadPoolExecutor(threads or free_cores(), "decoding")
    try:
        for batch in batches:
            waiting.append(_submitted(pool, batch, prepare, skip_unreadable))
            if len(waiting) > BATCHES:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for part in preprocessing_of(reward):
            part.forget()


def ready(batch: Sequence[Numbered], skip_unreadable: bool = False) -> Ready:
    """Return a batch that is made ready in this thread.

    Raises:
        InputError: if a row cannot be read and is not skipped.
    """
    return _assembled(batch, [decoded(numbered, skip_unreadable) for numbered in batch])


def free_cores() -> int:
    """Return how many threads decode: a core is left to the reward."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    return min(max(cores - 1, 1), MOST_THREADS)


def decoded(numbered: Numbered, skip_unreadable: bool) -> Entry:
    """Return a row with its pixels, or with why they cannot be read.

    Raises:
        InputError: if they cannot and such rows are not skipped.
    """
    entry = numbered.entry
    if isinstance(entry.output, str) or entry.problem:
        return entry
    try:
        pixels = entry.output()
    except InputError as error:
        if not skip_unreadable:
            raise InputError(f"{error} Or leave such rows unscored: --skip-unreadable.") from None
        return Entry(entry.place, problem=str(error))
    return Entry(entry.place, entry.prompt, lambda: pixels, facts=entry.facts)


def _submitted(
    pool: ThreadPoolExecutor, batch: Sequence[Numbered], prepare: Prepare, skip_unreadable: bool
) -> Future[Ready]:
    """Return the batch that the threads will have made ready.

    Its rows are handed in before the task that waits for them, so that task never waits for one
    that has not begun.
    """
    if all(isinstance(numbered.entry.output, str) for numbered in batch):
        return pool.submit(ready, batch, skip_unreadable)
    rows = [pool.submit(decoded, numbered, skip_unreadable) for numbered in batch]

    def assemble() -> Ready:
        made = _assembled(batch, [row.result() for row in rows])
        if made.samples is None or not made.has_pictures:
            return made
        return made._replace(samples=prepare(made.samples))

    return pool.submit(assemble)


def _assembled(batch: Sequence[Numbered], entries: Sequence[Entry]) -> Ready:
    rows = [numbered.row for numbered in batch]
    reasons = [entry.problem for entry in entries]
    places = [place for place, reason in enumerate(reasons) if not reason]
    if not places:
        return Ready(rows, reasons, None)
    readable = [entries[place] for place in places]
    return Ready(rows, reasons, samples_of(readable, [rows[place] for place in places]))


def _preparation(reward: Reward) -> Prepare:
    """Return what threads do with pictures for the device on which the reward is."""
    weight = next(iter(reward.parameters()), None)
    if weight is not None and weight.device.type == "cuda":
        return _pinned
    parts = preprocessing_of(reward)

    def prepare(samples: Samples) -> Samples:
        pixels = samples.outputs
        assert isinstance(pixels, Tensor)  # asked before
        for part in parts:
            part.ahead(pixels.flatten(0, 1) if pixels.dim() == 5 else pixels)
        return samples

    return prepare


def _pinned(samples: Samples) -> Samples:
    """Return samples whose pixels the device reads while it computes."""
    assert isinstance(samples.outputs, torch.Tensor)
    return replace(samples, outputs=samples.outputs.pin_memory())
