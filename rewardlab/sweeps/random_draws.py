"""Random settings: draws of numbers and choices that stay the same as more are asked for."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from rewardlab.errors import InputError
from rewardlab.sweeps.points import Settings, canonical, text_of

DIGITS = 4  # of a number that is drawn, so that a command can be typed
TRIES = 50  # draws for each point that is asked for, as choices may come again
SCALES = ("linear", "log")
RANGE_KEYS = ("low", "high", "scale", "integer")


def drawn(spaces: Mapping[str, Any], count: int, seed: int) -> list[Settings]:
    """Return different random settings.

    Draw number i of a key depends on the seed, the key and i alone: a larger count keeps the draws
    that were there.

    Args:
        spaces: of each key a list of choices, or a range {low, high, scale, integer}.
        count: how many settings.
        seed: another one gives other settings.

    Raises:
        InputError: for a space that nothing can be drawn from, or too few different settings.

    Example:
        >>> few = drawn({"a.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}}, 2, seed=0)
        >>> drawn({"a.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}}, 3, seed=0)[:2] == few
        True
    """
    check_spaces("random", spaces)
    found: dict[tuple[str, ...], Settings] = {}
    for number in range(TRIES * count):
        settings = {}
        for key, space in spaces.items():
            source = random.Random(f"{seed}/{key}/{number}")
            settings[key] = _draw(space, source)
        values = tuple(canonical(text) for text in settings.values())
        found.setdefault(values, settings)
        if len(found) == count:
            return list(found.values())
    raise InputError(
        f"random: asks for {count} points, and only {len(found)} different ones were drawn from "
        f"{', '.join(spaces)}. Lower count, or list them under grid:."
    )


def check_spaces(owner: str, spaces: Mapping[str, Any]) -> None:
    """Refuse spaces that nothing can be drawn from.

    Args:
        owner: the key of the sweep's file that holds them.
        spaces: of each key a list of choices, or a range {low, high, scale, integer}.

    Raises:
        InputError: naming the owner and the first such key.

    Example:
        >>> check_spaces("random", {"a.lr": {"low": 1, "high": 0}})
        Traceback (most recent call last):
        rewardlab.errors.InputError: random: a.lr has low 1 and high 0; ...
    """
    for key, space in spaces.items():
        try:
            check_space(key, space)
        except InputError as error:
            raise InputError(f"{owner}: {error}") from None


def check_space(key: str, space: Any) -> None:
    """Refuse what nothing can be drawn from.

    Raises:
        InputError: naming the key.

    Example:
        >>> check_space("a.lr", ["one of", 2])
    """
    if isinstance(space, list) and space:
        return
    if not isinstance(space, Mapping) or not {"low", "high"} <= space.keys():
        raise InputError(
            f"{key} takes a list of choices or a range such as {{low: 1e-4, high: 1e-2, "
            f"scale: log}}; got {space!r}."
        )
    unknown = [name for name in space if name not in RANGE_KEYS]
    if unknown:
        raise InputError(f"{key} has no {unknown[0]!r}; a range has {', '.join(RANGE_KEYS)}.")
    _check_range(key, space)


def _check_range(key: str, space: Mapping[str, Any]) -> None:
    low = _number(key, space["low"])
    high = _number(key, space["high"])
    scale = space.get("scale", "linear")
    if not low < high:
        raise InputError(
            f"{key} has low {space['low']} and high {space['high']}; low has to be below "
            "high. Are they exchanged?"
        )
    if scale not in SCALES:
        raise InputError(f"{key} has scale {scale!r}; it is linear or log.")
    if scale == "log" and low <= 0:
        raise InputError(
            f"{key} has scale log from {space['low']} on, and a logarithm needs numbers "
            "above 0. Raise low, or leave scale out."
        )
    if not isinstance(space.get("integer", False), bool):
        raise InputError(f"{key} has integer {space['integer']!r}; it is true or false.")
    if space.get("integer") and math.ceil(low) > math.floor(high):
        raise InputError(f"{key} has no whole number between {low:g} and {high:g}.")


def _number(key: str, value: Any) -> float:
    """Return a finite number; YAML reads 1e-4 as a word, which is one here too."""
    try:
        number = float("no" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"the range of {key} takes numbers; got {value!r}.")
    return number


def _draw(space: Any, source: random.Random) -> str:
    """Return one value as the text of a flag."""
    if isinstance(space, list):
        place = int(source.random() * len(space))
        return text_of(space[place])
    low = float(space["low"])
    high = float(space["high"])
    share = source.random()
    if space.get("integer"):  # each whole number has a unit of the range to itself
        low = math.ceil(low) - 0.4999
        high = math.floor(high) + 0.4999
    if space.get("scale") == "log":
        value = low * (high / low) ** share
    else:
        value = low + (high - low) * share
    if space.get("integer"):
        return text_of(round(value))
    rounded = float(f"{value:.{DIGITS}g}")
    return text_of(min(max(rounded, low), high))
