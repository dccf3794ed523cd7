"""What an exported reward returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass
class RewardOutput(ModelOutput):  # type: ignore[no-untyped-call]
    """Scores of B outputs.

    Attributes:
        logits: [B, 1], the scores.
        members: [B, M], those of M members; None of a reward with one.
    """

    logits: Tensor | None = None
    members: Tensor | None = None


def reward_output(columns: Tensor, return_dict: bool | None) -> RewardOutput | tuple[Any, ...]:
    """Return the scores and the members' that stand in columns [B, 1] or [B, 1 + M].

    Args:
        columns: the score first.
        return_dict: if false, a tuple is returned.
    """
    output = RewardOutput(logits=columns[:, :1])
    if columns.shape[1] > 1:
        output.members = columns[:, 1:]
    return output.to_tuple() if return_dict is False else output
