"""What rounds are shrunk to for a rehearsal: few rows, and trainers and attackers of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any

from pytorch_lightning import Trainer

PROMPTS = 2
OUTPUTS = 8  # outputs that are judged
ROWS = 32  # targets or pairs; a quarter of them are held out
_ONE_STEP = {"max_steps": 1, "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}
_SMALL_ATTACK = {"n": 2, "candidates": 2, "segments": 1, "per_prompt": 1, "batch_size": PROMPTS}


def one_step(make: Callable[..., Trainer]) -> Callable[..., Trainer]:
    """Return what makes the trainer of a single step."""
    return partial(make, **_ONE_STEP, enable_progress_bar=False)


def small_attacker(attacker: Any) -> Any:
    """Return an attacker that draws little; one that is no dataclass stays."""
    if not is_dataclass(attacker) or isinstance(attacker, type):
        return attacker
    names = vars(attacker).keys()
    changes: dict[str, Any] = {name: few for name, few in _SMALL_ATTACK.items() if name in names}
    if "trainer" in names:
        changes["trainer"] = one_step(vars(attacker)["trainer"])
    return replace(attacker, **changes)
