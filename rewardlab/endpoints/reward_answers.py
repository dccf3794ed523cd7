"""What a reward server said of each output, with the reason where it said nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a server said of B samples.

    Attributes:
        values: B numbers, NaN where a sample is not scored.
        reasons: B strings, "" where it is.
    """

    values: list[float]
    reasons: list[str]


def joined(answers: Sequence[Answer]) -> Answer:
    """Return answers to one sample each as one."""
    values = [answer.values[0] for answer in answers]
    return Answer(values, [answer.reasons[0] for answer in answers])


def read_answer(values: Sequence[Any], answer: Any, is_strict: bool) -> Answer:
    """Return the values of an answer, with the reason where there is none.

    A number that is not finite is left to be refused if `is_strict`.
    """
    said = _reasons_of(answer, len(values))
    numbers = []
    reasons = []
    for value, reason in zip(values, said, strict=True):
        if value is None:
            numbers.append(math.nan)
            reasons.append(reason)
        else:
            is_finite = is_strict or math.isfinite(value)
            numbers.append(float(value))
            reasons.append("" if is_finite else f"the server's score is {value}")
    return Answer(numbers, reasons)


def are_values(values: Any, count: int) -> bool:
    """Tell whether the values are a list of that many numbers or None; booleans are none."""
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(value is None or _is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and not (isinstance(value, int) and abs(value) >= 2**127)  # float32 ends there


def _reasons_of(answer: Any, count: int) -> list[str]:
    """Return why a server did not score outputs, as rewardlab's own says it in a list "reasons".

    Example:
        >>> _reasons_of({"rewards": [None], "reasons": ["it is too long"]}, 1)
        ['it is too long']
    """
    said = answer.get("reasons") if isinstance(answer, Mapping) else None
    if not isinstance(said, list) or len(said) != count:
        said = [None] * count
    reasons = []
    for reason in said:
        is_said = isinstance(reason, str) and reason
        reasons.append(reason[:300] if is_said else "the server answered null")
    return reasons
