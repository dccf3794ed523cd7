"""What a dialect is, and what several have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn, tensor

from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.rows import Row, Score

Body = Mapping[str, Any]


class Dialect(NamedTuple):
    """One form of requests and answers.

    Attributes:
        name: for flags, metrics and documents.
        path: of its POST.
        read: gives a body's rows, of which there is at least one.
        write: gives the answer to a body, from the scores of its rows and the reward's name.
        refuse: gives the body of an error, from its status and sentence.
    """

    name: str
    path: str
    read: Callable[[Body, nn.Module, Limits], list[Row]]
    write: Callable[[Body, Sequence[Score], str], Any]
    refuse: Callable[[int, str], Any]


def values_of(scores: Sequence[Score], status: int) -> list[float]:
    """Return the scores of a form that has no word for a row that is not scored.

    Raises:
        RefusalError: with `status`, naming the first such row and its reason.

    Example:
        >>> values_of([Score(0.5)], 422)
        [0.5]
    """
    values = []
    for place, score in enumerate(scores):
        if score.value is None:
            count = sum(other.value is None for other in scores)
            raise RefusalError(
                status,
                f"Input {place} is not scored: {score.reason.rstrip('.')}. It is one of {count} "
                f"such inputs in {len(scores)}; the others are scored if sent without them.",
            )
        values.append(score.value)
    return values


def sigmoid(value: float) -> float:
    """Return the logistic function of a score, in float32."""
    activated: float = tensor(value).sigmoid().item()
    return activated


def openai_error(status: int, sentence: str) -> Any:
    """Return an error in the form of OpenAI's endpoints, as vLLM and SGLang send it."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {"error": {"message": sentence, "type": kind, "param": None, "code": status}}
