"""Say on how many held-out samples the figures of a reward rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rewardlab.runs import layout
from rewardlab.runs.damage import read_object
from rewardlab.runs.layout import stage_name
from rewardlab.runs.read import Run, at
from rewardlab.storage.metadata import read_lines

FEW = 20
Z = 1.96
DATA_KEYS = (("data",), ("rounds", "init_args", "targets"), ("rounds", "init_args", "preferences"))


def held_out_sentence(run: Run) -> str:
    """Say how many samples are held out, and that they are few where they are; "" if unknown."""
    count = held_out(run)
    if count is None:
        return ""
    if count < 1:
        return f"The share {count:g} of the data is held out."
    unit = _unit(run)
    said = f"{count:g} {f'{unit} is' if count == 1 else f'{unit}s are'} held out"
    if count >= FEW:
        return f"{said.capitalize()}."
    chance = chance_auc(int(count))
    if chance >= 1:
        return f"Only {said}: too few to tell a good reward from chance, whatever the AUC."
    accuracy = 0.5 + Z / (2 * math.sqrt(count))
    return (
        f"Only {said}: by chance alone an AUC reaches {chance:.2f}, an accuracy of pairs "
        f"{min(1.0, accuracy):.2f}. Hold out more before trusting them."
    )


def chance_auc(count: int) -> float:
    """Return what the AUC of a reward that knows nothing stays below 97.5 times in 100.

    The bound is the normal one of Mann and Whitney's statistic for two classes of this size.

    Example:
        >>> chance_auc(1) > 1, round(chance_auc(10), 2)
        (True, 0.76)
    """
    return 0.5 + Z * math.sqrt((2 * count + 1) / (12 * count * count))


def _unit(run: Run) -> str:
    """Return what is counted, in the singular: pairs of preference data, or targets."""
    scored = run.path / layout.HELD_OUT_FOLDER / layout.SCORED_FILE
    if scored.is_file():
        return str(read_object(scored).get("unit", "samples")).removesuffix("s")
    is_pairs = bool(at(run.config, "rounds", "init_args", "preferences"))
    return "pair" if is_pairs else "target"


def held_out(run: Run) -> float | None:
    """Return how many samples are held out, a share below 1, or None where it is not known.

    A fit notes it, and the saved held-out targets of rounds are counted; else the config's
    `held_out` counts.
    """
    scored = run.path / layout.HELD_OUT_FOLDER / layout.SCORED_FILE
    if scored.is_file():
        count = read_object(scored).get("held_out")
        return float(count) if isinstance(count, int) else None
    folder = run.stage(stage_name(0, layout.TARGETS))
    if folder is not None:
        metadata = folder / layout.SAMPLES_FOLDER / "metadata.jsonl"
        if metadata.is_file():
            return float(len(read_lines(metadata)))
    for keys in DATA_KEYS:
        value = _held_out_of(at(run.config, *keys))
        if value is not None:
            return value
    return None


def _held_out_of(data: Any) -> float | None:
    """Return the `held_out` of a config's data, if it is a number."""
    if not isinstance(data, Mapping):
        return None
    value = at(data, "init_args", "held_out") or at(data, "held_out")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None
