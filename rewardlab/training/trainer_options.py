"""Options of Lightning's Trainer that a loop cannot follow, refused before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewardlab.errors import InputError

# Values with which the Trainer takes no notice of an option.
_NEUTRAL = {"gradient_clip_val": (None, 0, 0.0), "accumulate_grad_batches": (None, 1)}


def check_options(loop: str, instead: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """Refuse options of a Trainer that a loop cannot follow.

    Args:
        loop: the loop's name.
        instead: maps each option that the loop has itself to its own argument.
        options: the Trainer's.

    Raises:
        InputError: naming the argument to use instead.

    Example:
        >>> check_options("DPO", {}, {"precision": "bf16-mixed", "gradient_clip_val": 1.0})
        >>> check_options("PPO", {"gradient_clip_val": "gradient_clip"}, {"gradient_clip_val": 1.0})
        Traceback (most recent call last):
        rewardlab.errors.InputError: The trainer's gradient_clip_val is 1.0, which PPO cannot ...
    """
    for name, own in instead.items():
        value = options.get(name)
        if value not in _NEUTRAL[name]:
            raise InputError(
                f"The trainer's {name} is {value!r}, which {loop} cannot follow: it takes its own "
                f"optimizer steps. Leave it out, and give the loop's argument `{own}` instead."
            )
    precision = str(options.get("precision"))
    if precision.endswith("-true") and precision != "32-true":
        mixed = "16-mixed" if precision == "16-true" else "bf16-mixed"
        raise InputError(
            f"The trainer's precision is {precision!r}, which turns all weights and inputs into "
            f"that type; {loop}'s losses need float32. Give {mixed!r}, or to save memory the "
            "policy's or the reward's own argument `dtype`."
        )
