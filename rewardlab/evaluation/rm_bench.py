"""RM-Bench: three styles of a right answer against three of a wrong one. Liu et al., 2410.16184."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.evaluation.rewardbench2 import RowScores
from rewardlab.metrics.bootstrap import percentiles, resampled_means
from rewardlab.seeds import derive

STYLES = ("concise", "detailed", "markdown")


def style_wins(scores: Sequence[RowScores]) -> Tensor:
    """Return whether each right answer beats each wrong one, float64 [N, 3 right, 3 wrong].

    Equal scores are no win, as the benchmark's own script has it.

    Raises:
        InputError: if a row has other than three of each.
    """
    wins = []
    for number, row in enumerate(scores):
        right = len(row.chosen)
        wrong = len(row.rejected)
        if right != len(STYLES) or wrong != len(STYLES):
            raise InputError(
                f"RM-Bench compares {len(STYLES)} styles of a right answer with as many of a wrong "
                f"one; row {number} has {right} and {wrong}."
            )
        wins.append((row.chosen[:, None] > row.rejected[None, :]).double())
    return torch.stack(wins)


def rm_bench_figures(
    scores: Sequence[RowScores], domains: Sequence[str], prompts: Tensor, seed: int = 0
) -> dict[str, Any]:
    """Return the accuracies by style and by domain. Liu et al., arXiv 2410.16184, section 4.

    A cell of the matrix is the share of rows in which the right answer of one style beats the wrong
    answer of another. Hard is the mean above the diagonal, where the wrong answer is the fancier
    one; normal is the diagonal; easy is the mean below. A reward that looks at style is far better
    on easy than on hard ones.

    Args:
        scores: of each row's answers, in the order of `STYLES`.
        domains: of each row.
        prompts: int64 [N], number of each row's prompt, which a resample draws whole.
        seed: names the bootstrap's draws.

    Returns:
        "matrix" [right][wrong]; "hard", "normal", "easy" and "average" (of these three), each with
        a bootstrap interval over prompts; "style_gap", easy less hard, with its interval;
        "domains": the mean over the nine cells of each.

    Example:
        >>> right = torch.tensor([1.0, 2.0, 3.0])
        >>> figures = rm_bench_figures([RowScores(right, right - 0.5)], ["chat"], torch.tensor([0]))
        >>> [figures[level]["mean"] for level in ("hard", "normal", "easy")]
        [0.0, 1.0, 1.0]
    """
    wins = style_wins(scores)
    of_rows = _levels(wins)
    figures: dict[str, Any] = {"matrix": wins.mean(0).tolist()}
    for name, values in of_rows.items():
        figures[name] = _with_bootstrap(values, prompts, derive(seed, "rm-bench"))
    figures["domains"] = {}
    for domain in sorted(set(domains)):
        inside = torch.tensor([name == domain for name in domains])
        cells = wins[inside].flatten(1).mean(1)
        _, numbers = prompts[inside].unique(return_inverse=True)
        figures["domains"][domain] = _with_bootstrap(cells, numbers, derive(seed, domain))
    return figures


def _levels(wins: Tensor) -> dict[str, Tensor]:
    """Return each row's mean [N] above, on and below the diagonal, and what follows from them."""
    above = torch.ones(len(STYLES), len(STYLES)).triu(1).bool()
    hard = wins[:, above].mean(1)
    normal = wins.diagonal(dim1=1, dim2=2).mean(1)
    easy = wins[:, above.T].mean(1)
    return {
        "hard": hard,
        "normal": normal,
        "easy": easy,
        "average": (hard + normal + easy) / 3,
        "style_gap": easy - hard,
    }


def _with_bootstrap(values: Tensor, prompts: Tensor, seed: int) -> dict[str, Any]:
    means = resampled_means(values, prompts, seed)
    low, high = percentiles(means, 0.95)
    return {"mean": values.mean().item(), "low": low, "high": high, "count": len(values)}
