"""Which implementation of an operation runs, and why.

Each operation has an ordered table of backends; there is no search and no silent fallback.
`REWARDLAB_KERNELS` names a backend for all operations of a process that have one of that name
("torch", which all have, turns every kernel off). An operation's own argument `backend` goes before
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
        for name, reason in self.hindrances.items():
            lines.append(f"  {name}: {reason or 'can run'}")
        return "\n".join(lines)


def explained(op: str, hindrances: Mapping[str, str], requested: str | None) -> Explanation:
    """Explain the choice among backends whose hindrances are given in order of preference.

    Example:
        >>> explained("scan", {"triton": "no GPU", "torch": ""}, None).backend
        'torch'
    """
    source = VARIABLE if requested is None else "the argument backend"
    backend = requested or os.environ.get(VARIABLE) or "auto"
    if requested is None and backend in NAMES and backend not in hindrances:
        why = f"{op} has no {backend}: "
        return _first_that_can_run(op, hindrances, why)
    if backend == "auto":
        return _first_that_can_run(op, hindrances, "")
    names = ", ".join(hindrances)
    hindrance = hindrances.get(backend, f"{op} has no such backend, only {names}")
    why = f"{source} asks for {backend}"
    if hindrance:
        return Explanation(op, None, f"{why}: {hindrance}", dict(hindrances))
    return Explanation(op, backend, why, dict(hindrances))


def _first_that_can_run(op: str, hindrances: Mapping[str, str], why: str) -> Explanation:
    for name, hindrance in hindrances.items():
        if not hindrance:
            return Explanation(op, name, f"{why}the first that can run", dict(hindrances))
    return Explanation(op, None, f"{why}none can run", dict(hindrances))


def chosen(op: str, hindrances: Mapping[str, str], requested: str | None) -> str:
    """Return the backend that runs.

    Raises:
        InputError: if the one that was asked for cannot.
    """
    explanation = explained(op, hindrances, requested)
    if explanation.backend is None:
        raise InputError(
            f"{explanation}\n"
            f"Ask for one that can run, or for none: backend=None and {VARIABLE}=auto."
        )
    return explanation.backend


@cache
def triton_hindrance(device: torch.device) -> str:
    """Return why Triton kernels cannot run on tensors of `device`, empty if they can.

    It does not import Triton.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device.type != "cuda":
        return (
            f"the tensors are on {device.type}; Triton needs a CUDA device, "
            "or TRITON_INTERPRET=1 set before it is imported"
        )
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8:
        return ""
    return f"the device's compute capability is {major}.{minor}; the kernels are for 8.0 and above"


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a CUDA device the current one, which is where Triton launches.

    For any other device the context does nothing.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
