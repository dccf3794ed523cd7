"""G6: the logit is the log density ratio, and with a KL of weight 1 it leads to the targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.intervals import Interval, above, all_of, gain, mean_of, values_of
from claims.table_world import (
    TableReward,
    World,
    drawn,
    fitted,
    optimised,
    variation,
    world_of,
)
from rewardlab.mining import RankBootstrap
from rewardlab.seeds import derive

FORMS = {
    "logit": (0.5, 0.7, 1.0, 1.4, 2.0),
    "probability": (0.12, 0.25, 0.5, 1.0),
    "bootstrapped logit": (0.7, 1.0, 1.4),
}
LARGEST_ERROR = 0.25  # nats; that of the counts alone is about 0.15
COUNT = 3000


def setting_of(form: str, beta: float) -> str:
    """Return a setting's name."""
    return f"{form}, β {beta:g}"


SETTINGS = tuple(setting_of(form, beta) for form, betas in FORMS.items() for beta in betas)


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Raise a form of the reward under a KL of weight β, and measure what the policy became."""
    form, _, weight = setting.partition(", β ")
    world = world_of(seed)
    scores = scores_of_form(form, seed, work.small)
    reward = TableReward(scores)
    policy = optimised(world, reward, float(weight), 2 if work.small else 120, seed)
    chances = policy.chances()
    best = (world.q.log() + scores / float(weight)).softmax(0)
    return {
        "distance_from_targets": variation(chances, world.p),
        "generator_distance": variation(world.q, world.p),
        "distance_from_optimum": variation(chances, best),
        "mean_reward": (chances * scores).sum().item(),
        "mean_log_ratio": (chances * world.log_ratio).sum().item(),
        "logit_error": None if form == "probability" else error_of(scores, world),
    }


@cache
def scores_of_form(form: str, seed: int, small: bool) -> Tensor:
    """Return each picture's reward, float64: a fitted logit, its probability, or a second fit's."""
    if form == "probability":
        return scores_of_form("logit", seed, small).sigmoid()
    size = 10 if small else 1
    world = world_of(seed)
    targets = drawn(world.p, COUNT // size, derive(seed, "targets"))
    negatives = drawn(world.q, COUNT // size, derive(seed, "negatives"))
    pseudo = None
    if form == "bootstrapped logit":
        pool = drawn(world.q, 10_000 // size, derive(seed, "pool"))
        first = TableReward(scores_of_form("logit", seed, small))
        bootstrap = RankBootstrap(len(pool), count=500 // size, alpha=0.001 * size)
        with torch.no_grad():
            pseudo = bootstrap(pool, first(pool), negatives)
    reward = fitted(targets, negatives, 5 if small else 400, seed, pseudo)
    return reward.scores.detach().double()


def error_of(scores: Tensor, world: World) -> float:
    """Return the root mean square of logit less log p/q, in nats, over pictures of p and of q."""
    both = (world.p + world.q) / 2
    return float((both * (scores - world.log_ratio).square()).sum().sqrt())


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if the logit is near log p/q, β = 1 is best, and other forms go elsewhere.

    The error's interval has to end below 0.25 nats. The logit's distance from the targets has to be
    smaller at β = 1 than at any other β, and than either other form's at β = 1; paired by seed,
    each interval above 0.
    """
    error = mean_of(values_of(rows, setting_of("logit", 1), "logit_error"))
    room = Interval(*(LARGEST_ERROR - end for end in (error.value, error.high, error.low)))
    beside = {name: farther(rows, name) for name in rivals()}
    distance = mean_of(values_of(rows, setting_of("logit", 1), "distance_from_targets"))
    start = mean_of(values_of(rows, setting_of("logit", 1), "generator_distance"))
    probability = least(rows, "probability")
    second = mean_of(values_of(rows, setting_of("bootstrapped logit", 1), "logit_error"))
    return Verdict(
        all_of([above(room), *(above(interval) for interval in beside.values())]),
        f"the logit errs by {error} nats; at β = 1 the policy is {distance} from the targets",
        (
            f"The fitted logit errs by {error} nats from log p/q, and RL on it at β = 1 takes the "
            f"generator from a distance (total variation) of {start.value:.2f} to {distance}; at "
            f"β = 0.7 it ends {beside[setting_of('logit', 0.7)]} farther, at β = 1.4 "
            f"{beside[setting_of('logit', 1.4)]} farther.",
            f"At β = 1 the probability ends {beside[setting_of('probability', 1)]} farther (its "
            f"best β of the sweep is at {probability.value:.2f}) and the bootstrapped logit, which "
            f"errs by {second} nats, {beside[setting_of('bootstrapped logit', 1)]} farther: "
            "neither is the density ratio any more.",
            "A table can hold any ratio and both distributions cover every picture; a network "
            "holds what its features hold, and where targets and generator do not overlap there "
            "is no ratio.",
        ),
    )


def rivals() -> tuple[str, ...]:
    """Return the settings that the logit at β = 1 has to beat."""
    same = [setting_of("logit", beta) for beta in FORMS["logit"] if beta != 1]
    return (*same, setting_of("probability", 1), setting_of("bootstrapped logit", 1))


def farther(rows: Sequence[Row], setting: str) -> Interval:
    """Return by how much a setting ends farther from the targets than the logit at β = 1."""
    return gain(rows, setting, setting_of("logit", 1), "distance_from_targets")


def least(rows: Sequence[Row], form: str) -> Interval:
    """Return the smallest mean distance of a form, over β."""
    return min(distances(rows, form), key=lambda mean: mean.value)


def distances(rows: Sequence[Row], form: str) -> list[Interval]:
    """Return the mean distance of a form from the targets, at each β."""
    settings = [setting_of(form, beta) for beta in FORMS[form]]
    return means_of(rows, settings, "distance_from_targets")


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the distance from the targets over β, a line a form."""
    for (form, betas), marker in zip(FORMS.items(), "os^", strict=True):
        draw_means(axes, betas, distances(rows, form), marker=marker, label=form)
    start = mean_of(values_of(rows, SETTINGS[0], "generator_distance")).value
    axes.axhline(start, color="grey", linestyle=":", linewidth=1.2, label="the generator")
    ticks = (0.12, 0.25, 0.5, 1, 2)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{beta:g}" for beta in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("β, weight of the KL to the generator")
    axes.set_ylabel("total variation from the targets")
    axes.set_ylim(0, 0.78)
    axes.legend(loc="upper center", ncols=2)


CLAIM = Claim(
    name="G6",
    title="The logit is the log density ratio, and RL on it at β = 1 recovers the targets",
    source="GAN-RM, arXiv 2506.13846, section 3.2, read as a density ratio",
    how=(
        "A world of 25 pictures, each with one lit pixel; p (targets) and q (generator) are each "
        "the softmax of 25 standard normal numbers. `training.GANRM` fits a table of logits to "
        "3,000 pictures of each; its error is the root mean square of logit - log p/q over "
        "pictures of both, in nats. `training.PPO` (RLOO, 120 steps of 256 pictures) then raises "
        "a form of it under β times the KL to q: the logit, its probability σ(logit), or the logit "
        "of a second fit with 500 pseudo-labels by rank at each end of 10,000 fresh pictures "
        "(`mining.RankBootstrap`, α = 0.001; the ratio of counts is that of configs/gan_rm). The "
        "distance is the total variation, from the targets (gold) or from the optimum "
        "q·exp(reward/β) in closed form, which says whether RL converged. Mean reward is the "
        "proxy, the mean of log p/q beside it what it stands for. It holds if the error's interval "
        "ends below 0.25 nats, the logit's distance at β = 1 is smaller than at any other β and "
        "than either other form's at β = 1, each interval of the paired differences above 0."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
