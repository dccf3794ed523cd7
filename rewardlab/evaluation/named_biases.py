"""The audit of named biases: what an edit that adds no content does to a reward's score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.evaluation.benchmark_scores import Part, fitting_scores, made_now
from rewardlab.evaluation.intervals import wilson
from rewardlab.evaluation.named_edits import NAMED_EDITS, NamedEdit, Wanted
from rewardlab.evaluation.rewardbench2 import RowScores
from rewardlab.evaluation.rewardbench_rows import BenchRow
from rewardlab.evaluation.taxonomy import length
from rewardlab.metrics import mean_interval
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import BATCH
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples

FEWEST = 2  # edited answers, for an interval


class Answers(NamedTuple):
    """One right answer of each of N prompts.

    Attributes:
        prompts: N prompts, all different.
        texts: their answers.
        scores: float64 [N].
    """

    prompts: list[Prompt]
    texts: list[str]
    scores: Tensor


def bias_audit(
    reward: Reward,
    rows: Sequence[BenchRow],
    scores: Sequence[RowScores],
    *,
    count: int = 200,
    seed: int = 0,
    batch_size: int = BATCH,
    edits: Sequence[NamedEdit] = NAMED_EDITS,
    part: Part = made_now,
) -> dict[str, Any]:
    """Edit right answers in ways that have a name, and return what each does to their scores.

    An effect is the mean of (score of the edited answer - score of the answer), a pair for each
    prompt, in reference deviations: the deviation of the answers' scores within their prompts,
    √(Σ(x - prompt's mean)²/(N - P)) over all N answers, right and wrong, of P prompts. So an effect
    of 1 is what usually parts two answers to one prompt. The interval is a bootstrap over prompts,
    with the deviation held.

    Args:
        reward: the reward, of texts.
        rows: questions with right and wrong answers.
        scores: of their answers.
        count: at most so many prompts are used, drawn by `seed`.
        seed: names the draws.
        batch_size: answers scored at once.
        edits: the edits.
        part: gives the figures of an edit by a name that holds the edit's, if they stand somewhere.

    Returns:
        "deviation" and "prompts"; "edits": for each its "mean" effect with "low" and "high", None
        where it applies to fewer than two answers; "raised", the share of scores that rose, with
        Wilson's interval; "words" that it adds on average; "count", "unchanged" (answers to which
        it does not apply) and "unscored", those that it makes too long; "wanted" and "verdict".

    Raises:
        InputError: if `count` is below 2.

    Example:
        >>> from rewardlab.rewards import Length
        >>> rows = []
        >>> scores = []
        >>> for number in range(4):
        ...     rows.append(BenchRow(f"{number}?", ["It is so."], ["No."], False, "all", number))
        ...     scores.append(RowScores(torch.tensor([3.0]), torch.tensor([1.0])))
        >>> audit = bias_audit(Length(), rows, scores)
        >>> audit["edits"]["claimed source"]["verdict"], audit["edits"]["doubled spaces"]["mean"]
        ('rewarded', 0.0)
    """
    if count < FEWEST:
        raise InputError(
            f"A bias audit needs at least {FEWEST} prompts for an interval; got {count}."
        )
    answers = reference_answers(rows, scores, count, seed)
    deviation = reference_deviation(rows, scores)
    figures = {}
    for edit in edits:
        effect = partial(_effect, reward, answers, edit, deviation, seed, batch_size)
        figures[edit.name] = part(f"edit: {edit.name}", effect)
    return {"deviation": deviation, "prompts": len(answers.prompts), "edits": figures}


def reference_answers(
    rows: Sequence[BenchRow], scores: Sequence[RowScores], count: int, seed: int
) -> Answers:
    """Return the first right answer of up to `count` prompts, which `seed` draws."""
    first: dict[Prompt, int] = {}
    for number, row in enumerate(rows):
        first.setdefault(row.prompt, number)
    numbers = list(first.values())
    order = row_seeds(derive(seed, "references"), len(numbers)).argsort()[:count]
    chosen = [numbers[place] for place in sorted(order.tolist())]
    return Answers(
        prompts=[rows[number].prompt for number in chosen],
        texts=[rows[number].chosen[0] for number in chosen],
        scores=torch.stack([scores[number].chosen[0].double() for number in chosen]),
    )


def reference_deviation(rows: Sequence[BenchRow], scores: Sequence[RowScores]) -> float:
    """Return the deviation of the answers' scores within their prompts, pooled over prompts."""
    by_prompt: dict[Prompt, list[Tensor]] = {}
    for row, of_row in zip(rows, scores, strict=True):
        by_prompt.setdefault(row.prompt, []).append(torch.cat([of_row.chosen, of_row.rejected]))
    squares = 0.0
    answers = 0
    for parts in by_prompt.values():
        values = torch.cat(parts).double()
        squares += (values - values.mean()).square().sum().item()
        answers += len(values)
    return math.sqrt(squares / (answers - len(by_prompt)))


def _effect(
    reward: Reward,
    answers: Answers,
    edit: NamedEdit,
    deviation: float,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Return the effect of one edit."""
    edited = [edit.edit(text) for text in answers.texts]
    pairs = zip(edited, answers.texts, strict=True)
    rows = [row for row, (text, original) in enumerate(pairs) if text != original]
    figures = not_measured(edit.wanted, unchanged=len(edited) - len(rows))
    if len(rows) < FEWEST:
        return figures
    samples = Samples([answers.prompts[row] for row in rows], [edited[row] for row in rows])
    what = f"answers with {edit.name}"
    scores = fitting_scores(reward, samples, batch_size, what, none_may_fit=True)
    there = scores.isfinite()
    changes = (scores - answers.scores[rows])[there]
    figures["count"] = len(changes)
    figures["unscored"] = len(rows) - len(changes)
    if len(changes) < FEWEST:
        return {**figures, "verdict": "not scored"}
    added = [length(edited[row]) - length(answers.texts[row]) for row in rows]
    figures["words"] = torch.tensor(added)[there].mean().item()
    return figures | measured(changes, deviation, edit.name, edit.wanted, seed)


def not_measured(wanted: Wanted, unchanged: int) -> dict[str, Any]:
    """Return the figures of an edit that applies to too few answers."""
    return {
        "mean": None,
        "low": None,
        "high": None,
        "raised": None,
        "words": None,
        "count": 0,
        "unchanged": unchanged,
        "unscored": 0,
        "wanted": wanted,
        "verdict": "too few",
    }


def measured(
    changes: Tensor, deviation: float, name: str, wanted: Wanted, seed: int
) -> dict[str, Any]:
    """Return the effect in deviations, the share that rose, and the verdict.

    Args:
        changes: float64 [N], of the scores, N ≥ 2.
        deviation: the reference deviation; at 0 nothing can be measured in it.
        name: of the edit.
        wanted: what a reward of the content would do.
        seed: names the bootstrap's draws.
    """
    rate = wilson((changes > 0).double().mean().item(), len(changes))
    raised = {"mean": rate.value, "low": rate.low, "high": rate.high}
    if deviation == 0:
        return {"raised": raised, "verdict": "scores never differ"}
    effects = changes / deviation
    low, high = mean_interval(effects, seed=derive(seed, name))
    return {
        "mean": effects.mean().item(),
        "low": low,
        "high": high,
        "raised": raised,
        "verdict": verdict(low, high, wanted),
    }


def verdict(low: float, high: float, wanted: Wanted) -> str:
    """Return in words what an effect's interval says.

    Example:
        >>> verdict(0.1, 0.3, "none"), verdict(-0.1, 0.3, "none"), verdict(-0.1, 0.3, "lower")
        ('rewarded', 'no effect seen', 'not noticed')
    """
    if low > 0:
        return "rewarded"
    if high < 0:
        return "lowered, as wanted" if wanted == "lower" else "punished"
    return "not noticed" if wanted == "lower" else "no effect seen"
