"""Writing what a run has trained to where other commands look for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from rewardlab.errors import InputError
from rewardlab.storage.atomic import atomic_folder

log = logging.getLogger("rewardlab")


@torch.no_grad()
def export(part: Any, target: Path) -> bool:
    """Write a trained policy or reward into `target`, and tell whether that was possible.

    What cannot be saved is named in a warning; the run stands all the same.
    """
    if not callable(getattr(part, "save_pretrained", None)):
        log.warning(
            "There is no %s/: a %s cannot be saved, since it has no save_pretrained. Its weights "
            "are in the run's checkpoints/ (of a fit) or stages/ (of rounds).",
            target.name,
            type(part).__name__,
        )
        return False
    try:
        with atomic_folder(target) as folder:
            part.save_pretrained(folder)
    except InputError as error:
        log.warning("The %s is not exported: %s", target.name, error)
        return False
    return True
