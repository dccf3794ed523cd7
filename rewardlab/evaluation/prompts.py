"""Prompts of a fixed number of outputs."""

from __future__ import annotations

from collections.abc import Sequence

from rewardlab.conversations import Prompt


def in_turn(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Return `count` prompts: all of them in their order, again and again.

    Example:
        >>> in_turn(["a", "b"], 5)
        ['a', 'b', 'a', 'b', 'a']
    """
    return [prompts[row % len(prompts)] for row in range(count)]
