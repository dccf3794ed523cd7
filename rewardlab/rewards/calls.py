"""Functions that others wrote, sync or async: how they are called, and what they answer."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.unscored import Judged
from rewardlab.types import Samples


def answers_to(calls: Sequence[Any]) -> list[Any]:
    """Return what calls of functions returned; coroutines among them run at the same time.

    They run in a thread of its own, so that the caller may be inside of an event loop, as notebooks
    are.

    Example:
        >>> async def answer():
        ...     return 4
        >>> answers_to([answer(), 5])
        [4, 5]
    """
    if not any(inspect.isawaitable(call) for call in calls):
        return list(calls)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _gathered(calls)).result()


def judged_values(values: Any, samples: Samples, name: str) -> Judged:
    """Return the numbers that a function gave; None and NaN are samples that it did not score.

    Args:
        values: a list, an array or a tensor of B numbers.
        samples: what was scored; the scores lie on the device of their facts.
        name: of the function, for messages.

    Raises:
        InputError: if there are more or fewer values, or one is no number.

    Example:
        >>> judged_values([1, None], Samples(["", ""], ["a", "b"]), "f")
        Judged(scores=tensor([1., nan]), reasons=['', 'f returned None'])
    """
    scores = []
    reasons = []
    for value in _listed(values, len(samples), name):
        score = _score(value, name)
        scores.append(score)
        reasons.append(f"{name} returned {value}" if math.isnan(score) else "")
    device = next((column.device for column in samples.facts.values()), None)
    return Judged(torch.tensor(scores, dtype=torch.float32, device=device), reasons)


async def _gathered(calls: Sequence[Any]) -> list[Any]:
    """Return what calls returned, once the coroutines among them have."""
    results = list(calls)
    places = [place for place, call in enumerate(calls) if inspect.isawaitable(call)]
    answers = await asyncio.gather(*[calls[place] for place in places])
    for place, answer in zip(places, answers, strict=True):
        results[place] = answer
    return results


def _listed(values: Any, count: int, name: str) -> list[Any]:
    """Return a function's values as a list of the right length."""
    if isinstance(values, Tensor):
        values = values.tolist()
    described = type(values).__name__
    if hasattr(values, "__len__") and not isinstance(values, str):
        if len(values) == count:
            return list(values)
        described += f" of {len(values)}"
    raise InputError(
        f"The function {name} has to return a list of {count}, a number or None a sample; got a "
        f"{described}."
    )


def _score(value: Any, name: str) -> float:
    """Return a value as a number, NaN where it is None."""
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"The function {name} returned {str(value)[:60]!r} for a sample, which is no number. "
            "Return a float, or None where it cannot score."
        ) from None
