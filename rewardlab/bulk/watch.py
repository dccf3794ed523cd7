"""Which share of the time a reward's network computes."""

from __future__ import annotations

import time
from types import TracebackType

from rewardlab.rewards import Reward
from rewardlab.rewards.preprocessing import preprocessing_of


class Watch:
    """A clock that tells which share of the time since it was made passed outside of `with` blocks.

    What a tower's preprocessing takes inside of them counts as outside; on a GPU it is part of the
    network's time.

    Args:
        reward: the one that scores in the blocks.

    Example:
        >>> from rewardlab.rewards import Length
        >>> watch = Watch(Length())
        >>> with watch:
        ...     time.sleep(0.01)
        >>> 0 <= watch.outside < 1
        True
    """

    def __init__(self, reward: Reward) -> None:
        self._preparing = preprocessing_of(reward)
        self._inside = 0.0
        self._start = time.perf_counter()

    @property
    def outside(self) -> float:
        """The share of the time so far that was not the network's."""
        return 1 - self._inside / max(time.perf_counter() - self._start, 1e-9)

    def __enter__(self) -> None:
        self._inside -= time.perf_counter() - self._prepared()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside += time.perf_counter() - self._prepared()

    def _prepared(self) -> float:
        """Return the seconds that the tower's preprocessing has taken so far."""
        return sum(part.seconds for part in self._preparing)
