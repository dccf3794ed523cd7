"""What a server accepts, and how it refuses the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rewardlab.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Bounds of a server, each of which refuses a request with a sentence.

    Args:
        body_bytes: of a request's body; beyond them 413.
        rows: texts, images or videos of a request; beyond them 413.
        pixels: of all images of a request; beyond them 413.
        queue: rows that wait for a reward; beyond them 429.
        read_seconds: in which a request has to have arrived whole; beyond them 408.
        drain_seconds: that a server which was asked to stop gives to requests that it accepted.

    Raises:
        InputError: if one is not above 0.

    Example:
        >>> Limits(rows=8).rows
        8
    """

    body_bytes: int = 2**26
    rows: int = 1024
    pixels: int = 2**26
    queue: int = 4096
    read_seconds: float = 10.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"A server's {name} is above 0; got {value}.")


@dataclass
class RefusalError(Exception):
    """A request that is not answered with scores.

    Attributes:
        status: of HTTP.
        sentence: what was expected, what came, and what to do.
        headers: further headers of the answer.
    """

    status: int
    sentence: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status}: {self.sentence}"
