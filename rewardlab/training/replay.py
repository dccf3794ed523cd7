"""Replay: a bounded memory of what a policy drew, which keeps a correction from forgetting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, NamedTuple

from torch import Tensor

from rewardlab.conversations import Prompt, from_json, to_json
from rewardlab.errors import InputError
from rewardlab.networks.shells import GIB
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.staleness import Importance
from rewardlab.types import Samples, concatenate, take

Inputs = Samples | Tensor  # what a correction reads: samples, or their frozen features


class Drawn(NamedTuple):
    """Outputs of a policy as a correction reads them.

    Attributes:
        prompts: B prompts.
        inputs: Samples of B rows, or features [B, ...].
        keys: int64 [B], random numbers of the rows; the smallest stay when the memory is full.
        log_prob: float64 [B], the log-probability under the policy that drew each; None where
            nobody asks for importance weights.
        outputs: Samples of B rows, of which the log-probabilities are; None where `inputs` are they
            or nobody asks.
    """

    prompts: list[Prompt]
    inputs: Inputs
    keys: Tensor
    log_prob: Tensor | None = None
    outputs: Samples | None = None

    def rows(self, index: Tensor) -> Drawn:
        """Return some of the rows."""
        columns: list[Any] = []
        for column in self:
            columns.append(None if column is None else take(column, index))
        return Drawn(*columns)

    def samples(self) -> Samples:
        """Return the outputs themselves, where they are kept."""
        outputs = self.inputs if self.outputs is None else self.outputs
        assert isinstance(outputs, Samples)
        return outputs


@dataclass(frozen=True)
class Replay:
    """How many of the policy's earlier outputs are kept, and how often they come again.

    Args:
        recent: number of the last rollouts that count as recent.
        recent_share: share of the rows of an update that are recent; the others come from all
            rollouts before.
        capacity: most rows kept of those before: a uniform sample of them, whatever their age.
        importance: weights by which outputs of earlier policies count; by default all count alike.

    Raises:
        InputError: if a number is out of range.
    """

    recent: int = 4
    recent_share: float = 0.75
    capacity: int = 4096
    importance: Importance | None = None

    def __post_init__(self) -> None:
        if self.recent < 1 or self.capacity < 1 or not 0 < self.recent_share <= 1:
            raise InputError(
                "Replay needs recent and capacity of 1 or more, and recent_share in (0, 1]; got "
                f"{self.recent}, {self.capacity} and {self.recent_share:g}."
            )


class ReplayBuffer:
    """The rollouts of a run as far as `Replay` keeps them.

    Args:
        replay: its size.
        seed: names which rows are kept and which are drawn.

    Example:
        >>> buffer = ReplayBuffer(Replay(recent=1, capacity=2), seed=0)
        >>> for text in "abcd":
        ...     buffer.add(Drawn([""], Samples([""], [text]), buffer.next_keys(1)))
        >>> len(buffer), buffer.draw(4, seed=1).inputs.outputs.count("d")
        (3, 3)
    """

    def __init__(self, replay: Replay, seed: int) -> None:
        self.replay = replay
        self.seed = seed
        self.rollouts = 0
        self._recent: list[Drawn] = []
        self._older: Drawn | None = None

    def __len__(self) -> int:
        older = 0 if self._older is None else len(self._older.keys)
        return older + sum(len(drawn.keys) for drawn in self._recent)

    def next_keys(self, count: int) -> Tensor:
        """Return the keys that the next rollout's rows get, int64 [count]."""
        return row_seeds(derive(self.seed, "replay", self.rollouts), count)

    def add(self, drawn: Drawn) -> None:
        """Keep a rollout; the one that is no longer recent joins those before.

        Raises:
            InputError: if the memory that was asked for is larger than the machine's.
        """
        if self.rollouts == 0:
            self._check_memory(drawn)
        self._recent.append(drawn)
        self.rollouts += 1
        if len(self._recent) > self.replay.recent:
            self._keep(self._recent.pop(0))

    def draw(self, count: int, seed: int) -> Drawn:
        """Return `count` rows, drawn with replacement: recent ones and, once there are, others."""
        recent = joined_rows(self._recent)
        recent_seed = derive(seed, "recent")
        if self._older is None:
            return _some(recent, count, recent_seed)
        recent_count = round(self.replay.recent_share * count)
        some = _some(recent, recent_count, recent_seed)
        others = _some(self._older, count - recent_count, derive(seed, "older"))
        return joined_rows([some, others])

    def _keep(self, drawn: Drawn) -> None:
        """Let a rollout join those before, of which the rows with the smallest keys stay."""
        older = drawn if self._older is None else joined_rows([self._older, drawn])
        if len(older.keys) > self.replay.capacity:
            smallest = older.keys.argsort()[: self.replay.capacity]
            older = older.rows(smallest.sort().values)
        self._older = older

    def _check_memory(self, drawn: Drawn) -> None:
        """Refuse a memory that no machine holds once it is full, by the first rollout's rows."""
        count = len(drawn.keys)
        row_bytes = _bytes_of(drawn.inputs) / count
        if drawn.outputs is not None:
            row_bytes += _bytes_of(drawn.outputs) / count
        rows = self.replay.capacity + self.replay.recent * count
        kept_bytes = rows * row_bytes
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if kept_bytes > memory / 2:
            raise InputError(
                f"Online would keep {rows:,} outputs, {kept_bytes / GIB:.1f} GiB, and the machine "
                f"has {memory / GIB:.1f} GiB. "
                "Lower replay.capacity, or, for images, take a correction with a frozen backbone, "
                "of whose outputs only features are kept."
            )

    def state(self) -> dict[str, Any]:
        """Return all that is kept, as lists, numbers and tensors."""
        older = None if self._older is None else _to_state(self._older)
        recent = [_to_state(drawn) for drawn in self._recent]
        return {"rollouts": self.rollouts, "recent": recent, "older": older}

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        self.rollouts = state["rollouts"]
        self._recent = [_from_state(drawn) for drawn in state["recent"]]
        self._older = None if state["older"] is None else _from_state(state["older"])


def joined_rows(parts: Sequence[Drawn]) -> Drawn:
    """Return the rows of several rollouts as one."""
    columns: list[Any] = []
    for column in zip(*parts, strict=True):
        is_kept = all(part is not None for part in column)
        columns.append(concatenate(column) if is_kept else None)
    return Drawn(*columns)


def _some(drawn: Drawn, count: int, seed: int) -> Drawn:
    """Return `count` of the rows, drawn with replacement."""
    picks = row_seeds(seed, count) % len(drawn.keys)
    return drawn.rows(picks)


def _bytes_of(inputs: Inputs) -> int:
    """Return what rows take in memory: pixels, features, or the objects of texts."""
    values = inputs.outputs if isinstance(inputs, Samples) else inputs
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    return sum(getsizeof(text) for text in values)


def _to_state(drawn: Drawn) -> dict[str, Any]:
    """Return rows as lists, numbers and tensors."""
    state: dict[str, Any] = {"keys": drawn.keys}
    state["prompts"] = [to_json(prompt) for prompt in drawn.prompts]
    if drawn.log_prob is not None:
        state["log_prob"] = drawn.log_prob
    if isinstance(drawn.inputs, Tensor):
        state["features"] = drawn.inputs
    samples = drawn.inputs if drawn.outputs is None else drawn.outputs
    if isinstance(samples, Samples):
        outputs = samples.outputs
        state["outputs"] = outputs if isinstance(outputs, Tensor) else list(outputs)
        state["facts"] = dict(samples.facts)
    return state


def _from_state(state: dict[str, Any]) -> Drawn:
    """Return the rows that `_to_state` was given."""
    prompts = [from_json(prompt) for prompt in state["prompts"]]
    samples = None
    if "outputs" in state:
        samples = Samples(prompts, state["outputs"], state["facts"])
    keys = state["keys"]
    log_prob = state.get("log_prob")
    if "features" in state:
        return Drawn(prompts, state["features"], keys, log_prob, samples)
    assert samples is not None
    return Drawn(prompts, samples, keys, log_prob)
