"""Keep the held-out samples that a trained reward scores highest and lowest, for the report."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rewardlab.data.splits import SplitData
from rewardlab.data.targets import TargetSamples
from rewardlab.errors import reason_of
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.runs import layout
from rewardlab.storage.samples import save_samples
from rewardlab.types import PreferencePairs, Samples, concatenate

log = logging.getLogger("rewardlab")
MOST_SCORED = 256
SHOWN = 12  # of each end


class HeldOut(NamedTuple):
    """What a data module holds out.

    Attributes:
        samples: all of its samples.
        number: how many pairs, or how many targets, there are.
        unit: "pairs" or "targets".
    """

    samples: Samples
    number: int
    unit: str


def keep_extremes(reward: Reward, data: Any, out: Path) -> Path | None:
    """Write the extremes of a finished fit; what fails here does not fail the fit.

    Args:
        reward: the trained reward.
        data: the data module of the fit.
        out: the run folder.

    Returns:
        The folder, or None where nothing is held out or it could not be written.
    """
    try:
        return write_extremes(reward, data, out)
    except Exception as error:  # a foreign reward or data module may raise anything
        shutil.rmtree(out / layout.HELD_OUT_FOLDER, ignore_errors=True)
        log.warning(
            "The fit is finished, and its held-out samples with the highest and lowest scores could"
            " not be written (%s). Its page lacks them.",
            reason_of(error),
        )
        return None


@torch.no_grad()
def write_extremes(reward: Reward, data: Any, out: Path) -> Path | None:
    """Score held-out samples and write the highest and the lowest, with the fact "score".

    Args:
        reward: the trained reward.
        data: the data module of the fit. Of one that holds nothing out nothing is written.
        out: the run folder; `held-out/` in it is made.

    Returns:
        The folder, or None where nothing is held out.

    Example:
        >>> from rewardlab.data import Preferences
        >>> from rewardlab.rewards.rules import Length
        >>> pairs = PreferencePairs(Samples(["x"] * 4, ["a b"] * 4), Samples(["x"] * 4, ["a"] * 4))
        >>> data = Preferences(pairs, held_out=1)
        >>> folder = write_extremes(Length(), data, getfixture("tmp_path"))
        >>> sorted(path.name for path in folder.iterdir())
        ['highest', 'lowest', 'scored.json']
    """
    held_out = _held_out(data)
    if held_out is None or not held_out.number:
        return None
    scored = held_out.samples[:MOST_SCORED]
    scores = scores_of(reward, scored)
    order = scores.argsort(stable=True)
    count = min(SHOWN, -(-len(scored) // 2))
    folder = out / layout.HELD_OUT_FOLDER
    ends = {layout.HIGHEST_FOLDER: order.flip(0)[:count], layout.LOWEST_FOLDER: order[:count]}
    for name, rows in ends.items():
        save_samples(folder / name, scored[rows].with_facts(score=scores[rows]))
    counts = {"held_out": held_out.number, "unit": held_out.unit, "scored": len(scored)}
    (folder / layout.SCORED_FILE).write_text(json.dumps(counts) + "\n", encoding="utf-8")
    return folder


def _held_out(data: Any) -> HeldOut | None:
    """Return what a data module holds out: of pairs both sides, else targets and generated."""
    if not isinstance(data, SplitData):
        return None
    held_out = data.split("held_out")
    if isinstance(data, TargetSamples):
        targets = int((held_out.labels > 0.5).sum())
        if not targets:
            return None
        samples = data.first_samples("held_out", MOST_SCORED // 2)
        return HeldOut(samples, targets, "targets")
    if isinstance(held_out, PreferencePairs):
        both = concatenate([held_out.chosen, held_out.rejected])
        return HeldOut(both, len(held_out), "pairs")
    return None
