"""Stage: a record of what a result depends on, whose hash names the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rewardlab.provenance import fingerprint


@dataclass(frozen=True)
class Stage:
    """One step of a run: its name, the stages that it is made from, its settings and its seed.

    Two stages with equal records have equal results, so a result is stored under the record's hash
    and never made twice. A stage need not have files: a run's start is one that others depend on.

    Attributes:
        name: what people read, such as "1-candidates".
        inputs: the stages whose results it uses.
        settings: all else that the result depends on, as `fingerprint` takes it.
        seed: of what it draws; None if it draws nothing.

    Example:
        >>> start = Stage("start", settings={"policy": "0f3a"})
        >>> first = Stage("1-candidates", (start,), {"k": 4}, seed=7)
        >>> first.key == Stage("1-candidates", (start,), {"k": 4}, seed=7).key
        True
        >>> first.key == Stage("1-candidates", (start,), {"k": 8}, seed=7).key
        False
    """

    name: str
    inputs: tuple[Stage, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The record as plain data; inputs stand by their keys."""
        inputs = [stage.key for stage in self.inputs]
        return {
            "name": self.name,
            "inputs": inputs,
            "settings": dict(self.settings),
            "seed": self.seed,
        }

    @property
    def key(self) -> str:
        """The record's hash, 16 hexadecimal digits."""
        return fingerprint(self.record)
