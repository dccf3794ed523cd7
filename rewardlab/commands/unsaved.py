"""What a run cannot save, said before it trains."""

from __future__ import annotations

import logging
from typing import Any

from rewardlab.errors import InputError
from rewardlab.rewards import Saved

log = logging.getLogger("rewardlab")


def announce_unsaved(part: Any, name: str) -> None:
    """Warn, before anything is trained, that a part will not be saved.

    Args:
        part: a policy or a reward.
        name: of the folder that will be missing.
    """
    reason = None
    if not callable(getattr(part, "save_pretrained", None)):
        reason = "it has no save_pretrained"
    elif isinstance(part, Saved):
        try:
            part.check_savable()
        except InputError as error:
            reason = str(error)
    if reason is not None:
        log.warning(
            "This run will leave no %s/, only checkpoints: a %s cannot be saved: %s. Stop it and "
            "derive the class from rewardlab.rewards.Saved (or write save_pretrained), if its "
            "weights are to be used afterwards.",
            name,
            type(part).__name__,
            reason,
        )
