"""The papers' claims, a module each, measured on small worlds: `experiments/study.py` runs them."""

from __future__ import annotations

import importlib
import pkgutil
import re

from claims.claim import Claim


def names() -> list[str]:
    """Return the names of all claims, such as "G1": GAN-RM's first, each paper's in order."""
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    found = [name for name in modules if re.fullmatch(r"[ga]\d+", name)]
    return [name.upper() for name in sorted(found, key=_order)]


def claim_of(name: str) -> Claim:
    """Return a claim by its name.

    Raises:
        SystemExit: if there is none of this name.
    """
    if name not in names():
        raise SystemExit(f"There is no claim {name!r}; there are {', '.join(names())}.")
    claim: Claim = importlib.import_module(f"claims.{name.lower()}").CLAIM
    return claim


def _order(name: str) -> tuple[bool, int]:
    return name[0] == "a", int(name[1:])
