"""A1: over-optimisation: the reward goes on rising while gold rises and then falls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import spearmanr

from claims import arms
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.intervals import above, all_of, mean_of, values_of
from rewardlab.evaluation.overoptimization import fit_overoptimization


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Read a plain run: where gold peaks, where it ends, and what the reward does meanwhile."""
    folder = arms.run_of(setting, seed, work)
    readings = arms.readings_of(folder)
    gold = torch.tensor([row["gold"] for row in readings])
    distance = torch.tensor([max(row["kl"], 0.0) for row in readings]).sqrt()
    steps = [row["step"] for row in readings]
    smooth = gold.unfold(0, 2, 1).mean(1)
    peak = int(smooth.argmax())
    fit = fit_overoptimization(distance, gold, "rl")
    return {
        "peak": smooth[peak].item(),
        "peak_step": steps[peak + 1],
        "distance_at_peak": distance[peak + 1].item(),
        "end": smooth[-1].item(),
        "reward_rises": float(spearmanr(steps, [row["reward"] for row in readings]).statistic),
        "gao_alpha": fit.alpha,
        "gao_beta": fit.beta,
        "gao_r2": fit.r2,
        "seconds": arms.menu.costs(folder, arms.menu.WORLDS["topics"])["seconds"],
    }


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if gold peaks above its start and ends below it, while the reward rises."""
    peak = mean_of(values_of(rows, arms.SINGLE, "peak"))
    end = mean_of(values_of(rows, arms.SINGLE, "end"))
    drop = mean_of([-value for value in values_of(rows, arms.SINGLE, "end")])
    rises = mean_of(values_of(rows, arms.SINGLE, "reward_rises"))
    step = mean_of(values_of(rows, arms.SINGLE, "peak_step"))
    distance = mean_of(values_of(rows, arms.SINGLE, "distance_at_peak"))
    fit = mean_of(values_of(rows, arms.SINGLE, "gao_r2"))
    return Verdict(
        all_of([above(peak), above(drop), above(rises, 0.5)]),
        f"gold peaks at {peak} σ and ends at {end} σ",
        (
            f"Gold rises to {peak} σ above its start at step {step.value:.0f}, {distance.value:.1f}"
            f" √nats from the base policy, and ends at {end} σ, while the reward rises all the "
            f"way (rank correlation with the step {rises}).",
            f"The form of Gao et al. for RL, d(α - β ln d), fits each run's gold with an R² of "
            f"{fit}.",
            "There is no KL term, so nothing holds the policy: where the peak lies is a matter of "
            "the learning rate too, in steps, and less so in √nats.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw each seed's fitted curve, and its peak."""
    for row in rows:
        distance = torch.linspace(0.01, 6, 100)
        curve = distance * (row["gao_alpha"] - row["gao_beta"] * distance.log())
        axes.plot(distance, curve, linewidth=1, label=f"seed {row['seed']}, fit")
        axes.plot(row["distance_at_peak"], row["peak"], "o", color=axes.lines[-1].get_color())
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_ylim(-4, 1.5)
    axes.set_xlabel("distance from the base policy, √nats")
    axes.set_ylabel("gold above its start, σ (points: peaks)")
    axes.legend(fontsize=7)


CLAIM = Claim(
    name="A1",
    title="Plain RLHF over-optimises: the reward rises on while gold rises and falls",
    source="Adv-RM, arXiv 2504.06141, section 1; Gao et al., arXiv 2210.10760",
    how=f"{arms.HOW} The reward is a single member.",
    settings=(arms.SINGLE,),
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=arms.SEEDS,
)
