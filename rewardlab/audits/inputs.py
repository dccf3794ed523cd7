"""What every audit takes: prompts, and names of its policy and rewards for the stages' keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.policies import Generator
from rewardlab.provenance import described, fingerprint
from rewardlab.rewards import Reward
from rewardlab.storage.prompts import read_prompts

NOT_SETTINGS = ("training", "micro_batch")  # attributes that change no output


def distinct_prompts(prompts: str | Path | Sequence[Prompt]) -> list[Prompt]:
    """Return the distinct prompts of a file or a list, in order.

    Raises:
        InputError: if there are none, or the file cannot be read.

    Example:
        >>> distinct_prompts(["a cat", "a dog", "a cat"])
        ['a cat', 'a dog']
    """
    if isinstance(prompts, str | Path):
        prompts = read_prompts(prompts)
    if not prompts:
        raise InputError(
            "An audit samples from prompts and got none. Give a file of them, or a list; "
            '[""] for an unconditional generator.'
        )
    return list(dict.fromkeys(prompts))


def names_of(parts: Mapping[str, nn.Module | None], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what names each part: its entry in `identity`, or else `identity_of` it."""
    names = {}
    for name, part in parts.items():
        names[name] = identity[name] if name in identity else identity_of(part)
    return names


def identity_of(part: nn.Module | None) -> dict[str, Any] | None:
    """Return plain data that names a policy or a reward: its weights and its settings.

    The settings are the public attributes of the module, and of the policies and rewards within it,
    that are plain data, functions or dataclasses. Stages depend on them, so a policy at another
    temperature gets stages of its own.

    Example:
        >>> from rewardlab.rewards.rules import Repetition
        >>> identity_of(Repetition(n=3))["settings"]
        {'': {'class': 'rewardlab.rewards.rules.Repetition', 'n': 3}}
    """
    if part is None:
        return None
    settings = {}
    for name, module in part.named_modules():
        if isinstance(module, Generator | Reward):
            settings[name] = _settings(module)
    return {"fingerprint": fingerprint(part), "settings": settings}


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the class of a module and its public attributes that can be described."""
    kind = type(module)
    settings = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    for name, value in vars(module).items():
        is_setting = not name.startswith("_") and name not in NOT_SETTINGS
        if is_setting and (_is_plain(value) or _is_code(value) or is_dataclass(value)):
            settings[name] = described(value)
    return settings


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a number, a string, None or a list of such."""
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | bool | int | float)


def _is_code(value: Any) -> bool:
    """Tell whether a value is a function, a class or a `functools.partial`."""
    return isinstance(value, partial) or hasattr(value, "__qualname__")
