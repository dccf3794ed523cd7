"""What hardening costs beside plain RLHF of the same steps: in seconds and in generations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewardlab.runs.layout import (
    CANDIDATES,
    MEMBER,
    PAIRS,
    POST_TRAIN,
    SAMPLES,
    SCORES,
    TARGETS,
    name_of_title,
    parse_stage_name,
    stage_name,
)

UNCOUNTED = (TARGETS, SAMPLES, SCORES)  # judging, which plain RLHF needs too
FIRST_FIT = stage_name(1, MEMBER, 0)
RLHF = (CANDIDATES, PAIRS, POST_TRAIN)
Spent = Mapping[str, float | None]


def cost(timing: Mapping[str, Any], generations: Mapping[str, int], steps: int) -> dict[str, Any]:
    """Return the cost of hardening: (fits + attacks + mining + RLHF) / (one fit + RLHF).

    Adv-RM, arXiv 2504.06141, section 5, has about 3.

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
        >>> timing = {"1-member-0-a": {"seconds": 2.0}, "1-attack-b": {"seconds": 3.0}}
        >>> timing |= {"2-member-0-c": {"seconds": 2.0}, "2-post-train-d": {"seconds": 8.0}}
        >>> cost(timing, {"1-attack": 50, "2-post-train": 100}, steps=10)["seconds"]
        {'all': 15.0, 'plain': 10.0, 'ratio': 1.5}
    """
    seconds: dict[str, float | None] = {}
    for title, entry in timing.items():
        name = name_of_title(title)
        if name:
            seconds[name] = entry.get("seconds", entry.get("seconds_then"))
    counts = {name: float(count) for name, count in generations.items()}
    return {"steps": steps, "seconds": _totals(seconds), "generations": _totals(counts)}


def _totals(spent: Spent) -> dict[str, float | None]:
    """Return the total of the run, the total of plain RLHF, and their ratio."""
    whole = 0.0
    plain = 0.0
    stages = {name: parse_stage_name(name) for name in spent}
    trainings = [stage.round or 0 for stage in stages.values() if stage.stage in RLHF]
    first = min(trainings, default=0)
    for name, amount in spent.items():
        number, kind, _ = stages[name]
        if kind in UNCOUNTED:
            continue
        if amount is None:
            return {"all": None, "plain": None, "ratio": None}
        whole += amount
        if name == FIRST_FIT or (kind in RLHF and number == first):
            plain += amount
    return {"all": whole, "plain": plain, "ratio": whole / plain if plain else None}
