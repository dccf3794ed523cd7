"""Prompts of both classes, for a reward that reads them: checks, and mismatched negatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from rewardlab.errors import InputError
from rewardlab.rewards.probe import prompt_probe_auc
from rewardlab.types import Samples, take

PROBE_LIMIT = 0.55  # AUC of a probe that sees only the prompt


def check_prompts(reward: Any, targets: Sequence[str], negatives: Sequence[str]) -> None:
    """Refuse prompts from which the class could be guessed.

    A conditional reward would learn the prompt, not the image.

    Args:
        reward: has `prompt_features`.
        targets: prompts of the target samples.
        negatives: prompts of the generated samples.

    Raises:
        InputError: if a target has no caption, or a probe that sees prompts alone tells the classes
            apart (AUC > 0.55).
    """
    missing = sum(not prompt for prompt in targets)
    if missing:
        raise InputError(
            "A conditional reward needs a caption for every target; "
            f"{missing} of {len(targets)} have none. "
            "Add `prompt` to metadata.jsonl, or set conditional=false."
        )
    labels = torch.cat([torch.ones(len(targets)), torch.zeros(len(negatives))])
    probe_auc = prompt_probe_auc(reward.prompt_features([*targets, *negatives]), labels)
    if probe_auc > PROBE_LIMIT:
        raise InputError(
            "The prompt alone tells targets from negatives "
            f"(AUC {probe_auc:.2f} > {PROBE_LIMIT}), so a conditional reward would learn it. "
            "Draw the negatives for the targets' own captions (`policy`), "
            "or set conditional=false."
        )


def mismatched(samples: Samples) -> Samples:
    """Return the samples under each other's prompts, as negatives of a conditional reward.

    They teach it to read the prompt. Every prompt stays as frequent as it was, so that it gives
    nothing away. Where one is more frequent than all others together, samples that would keep their
    own are left out.

    Raises:
        InputError: if all prompts are the same.

    Example:
        >>> mismatched(Samples(["a", "b", "c"], ["A", "B", "C"])).prompts
        ['b', 'c', 'a']
    """
    prompts = list(samples.prompts)
    counts = Counter(prompts)
    if len(counts) < 2:
        raise InputError(
            "A conditional reward needs at least two different captions among its targets; "
            "all are the same."
        )
    # In sorted order, a shift by the count of the most frequent prompt reaches another prompt.
    order = sorted(range(len(prompts)), key=lambda row: str(prompts[row]))
    shift = max(counts.values())
    other_prompts = list(prompts)
    for position, row in enumerate(order):
        other_prompts[row] = prompts[order[(position + shift) % len(order)]]
    rows = [row for row, prompt in enumerate(prompts) if other_prompts[row] != prompt]
    changed = samples[rows]
    return Samples(take(other_prompts, rows), changed.outputs, changed.facts)
