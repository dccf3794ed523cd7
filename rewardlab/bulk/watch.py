"""Which share of the time a reward's network computes."""

from __future__ import annotations

import time
from types import TracebackType

from rewardlab.rewards import Reward
from rewardlab.rewards.preprocessing import Preprocessing


class Watch:
    """A clock that runs from its making, and says how much of it was spent in the `with` blocks.

    What a tower's preprocessing takes inside of them counts as outside; on a GPU it is part of the
    network's time.

    Args:
        reward: scores in the blocks.

    Example:
        >>> from rewardlab.rewards import Length
        >>> watch = Watch(Length())
        >>> with watch:
        ...     time.sleep(0.01)
        >>> 0 <= watch.outside < 1
        True
    """

    def __init__(self, reward: Reward) -> None:
        self._preparing = [part for part in reward.modules() if isinstance(part, Preprocessing)]
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
        return sum(part.seconds for part in self._preparing)
