"""What hardening costs beside plain RLHF of the same steps: in seconds and in generations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FREE = ("targets", "samples", "scores")  # judging costs either way, and is no part of training
FIRST_FIT = "1-member-0"
RLHF = ("candidates", "pairs", "post-train")


def cost(timing: Mapping[str, Any], generations: Mapping[str, int], steps: int) -> dict[str, Any]:
    """Return all fits + attacks + mining + RLHF, over one fit + RLHF of the same steps (Adv-RM,
    section 5, has about 3).

    Args:
        timing: seconds of each stage, as timing.json has them; of a stage that another run made,
            those that it took there.
        generations: outputs that each stage kept, by "<round>-<stage>". An attacker that draws more
            than it keeps costs more.
        steps: N, of the post-training.

    Returns:
        "steps"; "seconds" and "generations", each with "all", "plain" and their "ratio" (None where
        a stage's seconds are not known).

    Example:
        >>> timing = {"1-member-0-a": {"seconds": 2.0}, "1-attack-b": {"seconds": 3.0}, "2-member-0-c": {"seconds": 2.0}}
        >>> timing["2-post-train-d"] = {"seconds": 8.0}
        >>> cost(timing, {"1-attack": 50, "2-post-train": 100}, steps=10)["seconds"]
        {'all': 15.0, 'plain': 10.0, 'ratio': 1.5}
    """
    seconds: dict[str, float | None] = {}
    for title, entry in timing.items():
        name = title.rpartition("-")[0]
        if name and name.partition("-")[2] not in FREE:
            seconds[name] = entry.get("seconds", entry.get("seconds_then"))
    return {
        "steps": steps,
        "seconds": _ratio(seconds),
        "generations": _ratio(_counted(generations)),
    }


def _counted(generations: Mapping[str, int]) -> dict[str, float | None]:
    return {
        name: float(count)
        for name, count in generations.items()
        if name.partition("-")[2] not in FREE
    }


def _ratio(spent: Mapping[str, float | None]) -> dict[str, float | None]:
    plain = [
        value
        for name, value in spent.items()
        if name == FIRST_FIT or name.partition("-")[2] in RLHF
    ]
    if None in spent.values():
        return {"all": None, "plain": None, "ratio": None}
    whole, part = (
        sum(value for value in values if value is not None) for values in (spent.values(), plain)
    )
    return {"all": whole, "plain": part, "ratio": whole / part if part else None}
