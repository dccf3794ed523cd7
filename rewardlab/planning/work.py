"""Work: what a training loop does with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Work:
    """What a loop does with a model.

    Attributes:
        loop: its name.
        rows: number of outputs in a training step that pass the network together; 0 trains nothing.
        encoded: number of outputs that are encoded at once; 0 for loops that draw their own.
        drawn: number of outputs that are drawn at once; 0 for loops that draw none.
        has_reference: whether a frozen reference is beside the policy.
        optimizer: name of the optimizer's class.
        options: its arguments.
        tokens: of a prompt with its response, for language models.
    """

    loop: str
    rows: int
    encoded: int = 0
    drawn: int = 0
    has_reference: bool = False
    optimizer: str = "AdamW"
    options: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 1024
