"""Accuracy on files in the format of RewardBench's first version. Lambert et al., arXiv 2403.13787."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.evaluation.intervals import wilson
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.storage.metadata import read_lines
from rewardlab.types import PreferencePairs, Samples

# How much a subset counts in its section: its number of prompts, but math-prm's 447 count as 984,
# as much as all code. Early
# versions of the benchmark's own table had the two xstest counts exchanged; these are those of the
# data.
SECTIONS = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
SHAPE = '{"prompt": "…", "chosen": "…", "rejected": "…", "subset": "llmbar-natural", "id": 0}'


def read_rewardbench(path: str | Path) -> tuple[PreferencePairs, list[str], list[Any]]:
    r"""Read a .jsonl file of pairs with subsets and return the pairs, their subsets and their ids.

    A row without an id gets its number in the file, from 0; one without a subset belongs to "all".

    Raises:
        InputError: if the file is missing, empty or broken, or a row lacks a text; the row is
            named.

    Example:
        >>> path = getfixture("tmp_path") / "bench.jsonl"
        >>> _ = path.write_text('{"prompt": "hi", "chosen": "hello", "rejected": "go away", "subset": "mine", "id": 7}\n')
        >>> pairs, subsets, ids = read_rewardbench(path)
        >>> pairs.chosen.outputs, subsets, ids
        (['hello'], ['mine'], [7])
    """
    rows = read_lines(Path(path))
    if not rows:
        raise InputError(f"{path} holds no pairs. A line should be {SHAPE}.")
    for number, row in enumerate(rows, 1):
        wrong = [
            name for name in ("prompt", "chosen", "rejected") if not isinstance(row.get(name), str)
        ]
        if wrong:
            raise InputError(
                f"{path}, row {number} has no string {' and '.join(wrong)}. A line should be {SHAPE}."
            )
    prompts = [row["prompt"] for row in rows]
    pairs = PreferencePairs(
        *(Samples(prompts, [row[name] for row in rows]) for name in ("chosen", "rejected"))
    )
    subsets = [str(row.get("subset", "all")) for row in rows]
    return pairs, subsets, [row.get("id", number) for number, row in enumerate(rows)]


def evaluate(reward: Reward, path: str | Path) -> dict[str, Any]:
    """Score a file and return accuracies by subset and section, and the rows that RewardBench's own
    tools read.

    Args:
        reward: an ensemble counts by its members' mean.
        path: see `read_rewardbench`.

    Returns:
        "subsets": accuracy (ties one half) with Wilson's interval and count; "sections": see
        `section_scores`; "score": the mean of the sections, None unless every section is whole;
        "accuracy": over all rows alike; "rows": id, subset, scores_chosen and scores_rejected.

    Example:
        >>> from rewardlab.rewards.rules import Length
        >>> path = getfixture("tmp_path") / "bench.jsonl"
        >>> _ = path.write_text('{"prompt": "hi", "chosen": "well hello", "rejected": "hi", "subset": "mt-bench-med"}')
        >>> evaluate(Length(), path)["sections"]["Chat"]["score"]
        1.0
    """
    pairs, subsets, ids = read_rewardbench(path)
    chosen, rejected = (scores_of(reward, half) for half in (pairs.chosen, pairs.rejected))
    wins = ((chosen - rejected).sign() + 1) / 2
    found = {name: _accuracy(wins, subsets, name) for name in sorted(set(subsets))}
    sections = section_scores({name: figures["accuracy"] for name, figures in found.items()})
    whole = len(sections) == len(SECTIONS) and not any(
        section["missing"] for section in sections.values()
    )
    columns = zip(ids, subsets, chosen.tolist(), rejected.tolist(), strict=True)
    return {
        "accuracy": wins.mean().item(),
        "score": sum(section["score"] for section in sections.values()) / len(sections)
        if whole
        else None,
        "sections": sections,
        "subsets": found,
        "rows": [
            dict(zip(("id", "subset", "scores_chosen", "scores_rejected"), row, strict=True))
            for row in columns
        ],
    }


def section_scores(accuracy: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return each section's score: Σ weight·accuracy / Σ weight over its subsets that are there,
    and those that are not.

    The weights are RewardBench's numbers of prompts, not those in the file, so that part of a
    subset counts as the whole. Sections without any subset, and subsets without a section, are left
    out.

    Example:
        >>> section_scores({"math-prm": 1.0, "hep-go": 0.0, "mine": 0.5})["Reasoning"]["score"] == 984 / (984 + 164)
        True
    """
    found = {}
    for section, weights in SECTIONS.items():
        there = {name: weight for name, weight in weights.items() if name in accuracy}
        if there:
            total = sum(weight * accuracy[name] for name, weight in there.items())
            found[section] = {
                "score": total / sum(there.values()),
                "missing": sorted(weights.keys() - there.keys()),
            }
    return found


def _accuracy(wins: Tensor, subsets: list[str], name: str) -> dict[str, Any]:
    own = wins[torch.tensor([subset == name for subset in subsets])]
    rate = wilson(own.mean().item(), len(own))
    return {"accuracy": rate.value, "low": rate.low, "high": rate.high, "count": rate.count}
