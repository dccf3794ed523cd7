"""Which implementation of an operation runs, and why: an ordered table for each, no search and no
silent fallback.

`REWARDLAB_KERNELS` names a backend for all operations of a process that have one of that name
("torch", which all have, turns every kernel off); an operation's own argument `backend` goes before
it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch

from rewardlab.errors import InputError

Backend = Literal["auto", "reference", "torch", "triton", "cuda", "matrix"]
NAMES = ("reference", "torch", "triton", "cuda", "matrix")
VARIABLE = "REWARDLAB_KERNELS"


class Explanation(NamedTuple):
    """What would run, and why.

    Attributes:
        op: the operation's name.
        backend: the one that would run; None if the one asked for cannot.
        why: in words.
        hindrances: of each backend, in order of preference; an empty string for one that can run.
    """

    op: str
    backend: str | None
    why: str
    hindrances: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.backend or 'nothing'} ({self.why})"]
        return "\n".join(
            lines + [f"  {name}: {reason or 'can run'}" for name, reason in self.hindrances.items()]
        )


def explained(op: str, hindrances: Mapping[str, str], requested: str | None) -> Explanation:
    """Explain the choice among backends whose hindrances are given in order of preference.

    Example:
        >>> explained("scan", {"triton": "no GPU", "torch": ""}, None).backend
        'torch'
    """
    source = "the argument backend" if requested is not None else VARIABLE
    asked = requested or os.environ.get(VARIABLE) or "auto"
    if requested is None and asked in NAMES and asked not in hindrances:
        source = f"{op} has no {asked}"
        asked = "auto"
    if asked == "auto":
        found = next((name for name, reason in hindrances.items() if not reason), None)
        why = "the first that can run" if found else "none can run"
        return Explanation(
            op,
            found,
            why if source == VARIABLE or requested else f"{source}: {why}",
            dict(hindrances),
        )
    reason = hindrances.get(asked, f"{op} has no such backend, only {', '.join(hindrances)}")
    why = f"{source} asks for {asked}" + f": {reason}" * bool(reason)
    return Explanation(op, None if reason else asked, why, dict(hindrances))


def chosen(op: str, hindrances: Mapping[str, str], requested: str | None) -> str:
    """Return the backend that runs.

    Raises:
        InputError: if the one that was asked for cannot.
    """
    explanation = explained(op, hindrances, requested)
    if explanation.backend is None:
        raise InputError(
            f"{explanation}\nAsk for one that can run, or for none: backend=None and {VARIABLE}=auto."
        )
    return explanation.backend


@cache
def triton_hindrance(device: torch.device) -> str:
    """Why Triton kernels cannot run on tensors of `device`; empty if they can. Does not import
    Triton.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device.type != "cuda":
        return f"the tensors are on {device.type}; Triton needs a CUDA device, or TRITON_INTERPRET=1 set before it is imported"
    major, minor = torch.cuda.get_device_capability(device)
    return (
        ""
        if major >= 8
        else f"the device's compute capability is {major}.{minor}; the kernels are for 8.0 and above"
    )


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a CUDA device the current one, which is where Triton launches; nothing for any other
    device.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
