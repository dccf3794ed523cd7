"""Accuracy on files in the format of RewardBench: pairs, or one right answer among several.

The first version is Lambert et al., arXiv 2403.13787; the second is in
`evaluation/rewardbench2.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.evaluation.intervals import wilson
from rewardlab.evaluation.rewardbench2 import evaluate_rows
from rewardlab.evaluation.rewardbench_rows import BenchRow, read_bench_rows
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import PreferencePairs, Samples

# How much a subset counts in its section: its number of prompts, but math-prm's 447 count as 984,
# as much as all code. Early versions of the benchmark's own table had the two xstest counts
# exchanged; these are those of the data.
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


class Benchmark(NamedTuple):
    """Pairs of a file, with what the file says of each.

    Attributes:
        pairs: N pairs.
        subsets: name of each pair's subset.
        ids: id of each pair.
    """

    pairs: PreferencePairs
    subsets: list[str]
    ids: list[Any]


def read_rewardbench(path: str | Path) -> Benchmark:
    r"""Read a file of pairs, and return the pairs, their subsets and their ids.

    Prompts and answers are texts or lists of messages; the forms of files are those of
    `read_records`. A row without an id gets its number in the file, from 0; one without a subset
    belongs to "all".

    Raises:
        InputError: if the file is missing, empty or broken, a row lacks a text, or has several
            answers; the row is named.

    Example:
        >>> path = getfixture("tmp_path") / "bench.jsonl"
        >>> texts = '"prompt": "hi", "chosen": "hello", "rejected": "go away"'
        >>> _ = path.write_text('{' + texts + ', "subset": "mine", "id": 7}\n')
        >>> pairs, subsets, ids = read_rewardbench(path)
        >>> pairs.chosen.outputs, subsets, ids
        (['hello'], ['mine'], [7])
    """
    return _benchmark(path, read_bench_rows(path))


def _benchmark(path: str | Path, rows: Sequence[BenchRow]) -> Benchmark:
    """Return rows with one right and one wrong answer each as pairs."""
    for number, row in enumerate(rows, 1):
        if len(row.chosen) != 1 or len(row.rejected) != 1:
            raise InputError(
                f"{path}, row {number} has {len(row.chosen)} chosen and {len(row.rejected)} "
                "rejected answers, as RewardBench 2; pairs have one each. `evaluate` takes both."
            )
    prompts = [row.prompt for row in rows]
    chosen = Samples(prompts, [row.chosen[0] for row in rows])
    rejected = Samples(prompts, [row.rejected[0] for row in rows])
    return Benchmark(
        pairs=PreferencePairs(chosen, rejected),
        subsets=[row.subset for row in rows],
        ids=[row.row_id for row in rows],
    )


def evaluate(reward: Reward, path: str | Path) -> dict[str, Any]:
    """Score a file, and return accuracies by subset and section.

    A file whose rows list several answers is one of RewardBench 2; its figures are those of
    `rewardbench2.evaluate_rows`.

    Args:
        reward: the reward, which scores by `scores_of`.
        path: the file; see `read_rewardbench`.

    Returns:
        "subsets": accuracy (ties one half) with Wilson's interval and count. "sections": see
        `section_scores`. "score": the mean of the sections, None unless every section is whole.
        "accuracy": over all rows alike. "rows": id, subset, scores_chosen and scores_rejected, as
        RewardBench's own tools read them.

    Example:
        >>> from rewardlab.rewards.rules import Length
        >>> path = getfixture("tmp_path") / "bench.jsonl"
        >>> texts = '"prompt": "hi", "chosen": "well hello", "rejected": "hi"'
        >>> _ = path.write_text('{' + texts + ', "subset": "mt-bench-med"}')
        >>> evaluate(Length(), path)["sections"]["Chat"]["score"]
        1.0
    """
    bench_rows = read_bench_rows(path)
    if any(row.listed for row in bench_rows):
        return evaluate_rows(reward, bench_rows)
    benchmark = _benchmark(path, bench_rows)
    chosen = scores_of(reward, benchmark.pairs.chosen)
    rejected = scores_of(reward, benchmark.pairs.rejected)
    wins = ((chosen - rejected).sign() + 1) / 2
    subsets = {}
    for name in sorted(set(benchmark.subsets)):
        subsets[name] = _accuracy(wins, benchmark.subsets, name)
    sections = section_scores({name: figures["accuracy"] for name, figures in subsets.items()})
    return {
        "accuracy": wins.mean().item(),
        "score": overall_score(sections),
        "sections": sections,
        "subsets": subsets,
        "rows": _rows(benchmark, chosen, rejected),
    }


def section_scores(accuracy: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return each section's score: Σ weight·accuracy / Σ weight over its subsets in the file.

    The weights are RewardBench's numbers of prompts, not those in the file, so that part of a
    subset counts as the whole. Sections without any subset, and subsets without a section, are left
    out.

    Args:
        accuracy: accuracy of each subset.

    Returns:
        "score" and "missing", the subsets that are absent, of each section.

    Example:
        >>> sections = section_scores({"math-prm": 1.0, "hep-go": 0.0, "mine": 0.5})
        >>> sections["Reasoning"]["score"] == 984 / (984 + 164)
        True
    """
    sections = {}
    for section, weights in SECTIONS.items():
        present = {name: weight for name, weight in weights.items() if name in accuracy}
        if present:
            total = sum(weight * accuracy[name] for name, weight in present.items())
            sections[section] = {
                "score": total / sum(present.values()),
                "missing": sorted(weights.keys() - present.keys()),
            }
    return sections


def overall_score(sections: dict[str, dict[str, Any]]) -> float | None:
    """Return the mean of the sections' scores; None unless every section is whole."""
    incomplete = any(section["missing"] for section in sections.values())
    if incomplete or len(sections) < len(SECTIONS):
        return None
    total: float = sum(section["score"] for section in sections.values())
    return total / len(sections)


def _rows(benchmark: Benchmark, chosen: Tensor, rejected: Tensor) -> list[dict[str, Any]]:
    """Return the rows that RewardBench's own tools read."""
    rows = []
    for number, row_id in enumerate(benchmark.ids):
        row = {
            "id": row_id,
            "subset": benchmark.subsets[number],
            "scores_chosen": chosen[number].item(),
            "scores_rejected": rejected[number].item(),
        }
        rows.append(row)
    return rows


def _accuracy(wins: Tensor, subsets: list[str], name: str) -> dict[str, Any]:
    """Return the accuracy on one subset, with Wilson's interval."""
    in_subset = torch.tensor([subset == name for subset in subsets])
    subset_wins = wins[in_subset]
    rate = wilson(subset_wins.mean().item(), len(subset_wins))
    return {
        "accuracy": rate.value,
        "low": rate.low,
        "high": rate.high,
        "count": rate.count,
    }
