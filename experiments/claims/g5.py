"""G5: pseudo-labels by rank help a little, whatever α and M are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from claims.claim import Claim, Figures, Row, Verdict, Word, Work
from claims.curves import draw_means_across
from claims.image_world import auc, fitted, ink, parts, pool, rank_correlation, unseen
from claims.intervals import Interval, above, all_of, gain, mean_of, values_of
from rewardlab.metrics import best_of_n_expected
from rewardlab.mining.bootstrap import RankBootstrap
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples

FEW, MANY = "50 targets", "500 targets"
BOOTSTRAPS = {
    "off": RankBootstrap(sides="none"),
    "bottom": RankBootstrap(sides="bottom"),
    "top": RankBootstrap(sides="top"),
    "both": RankBootstrap(),
    "both, α 0.01, M 10": RankBootstrap(count=10),
    "both, α 0.005, M 100": RankBootstrap(alpha=0.005, count=100),
    "both, α 0.05, M 13": RankBootstrap(alpha=0.05, count=13),
    "both, α 0.1, M 6": RankBootstrap(alpha=0.1, count=6),
}
SIDES = ("off", "bottom", "top", "both")
GRID = tuple(name for name in BOOTSTRAPS if "α" in name)
SETTINGS = (
    *(f"{FEW}, {name}" for name in BOOTSTRAPS),
    *(f"{MANY}, {name}" for name in ("off", "both")),
)
DECISIVE = "rank_correlation"
ALIKE = 0.05  # of the rank correlation; as far as α and M may move it


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Fit a reward, rank fresh samples by it, and fit another to their pseudo-labels too."""
    count, name = setting.split(" targets, ")
    reward = plain(work, seed, int(count))
    bootstrap = BOOTSTRAPS[name]
    if bootstrap.sides != "none":
        targets, negatives, fresh = learnt_from(work, seed, int(count))
        pseudo = bootstrap(fresh, scores_of(reward, fresh), negatives)
        reward = fitted(targets, negatives, seed, pseudo, steps=steps_of(work))
    _, _, held_out, base = parts(work, 500, seed)
    scores = scores_of(reward, base)
    gold = ink(base, pool(work))
    return {
        "rank_correlation": rank_correlation(scores, gold),
        "auc": auc(scores_of(reward, held_out), scores),
        "gold_of_best_of_16": best_of_n_expected(scores, gold, 16),
    }


@cache
def plain(work: Work, seed: int, count: int) -> Reward:
    """Return a reward without pseudo-labels."""
    targets, negatives, _ = learnt_from(work, seed, count)
    return fitted(targets, negatives, seed, steps=steps_of(work))


def learnt_from(work: Work, seed: int, count: int) -> tuple[Samples, Samples, Samples]:
    """Return so many targets and negatives, and 1,000 samples that are ranked."""
    taken = parts(work, 500, seed)
    fresh = unseen(pool(work), taken, seed)[: BOOTSTRAPS["both"].pool]
    return taken[0][:count], taken[1][:count], fresh


def steps_of(work: Work) -> int:
    """Return the steps of a fit."""
    return 5 if work.small else 300


def within(interval: Interval, limit: float) -> Word:
    """Return "holds" for an interval inside ±limit, "fails" for one that is wholly outside."""
    if -limit < interval.low and interval.high < limit:
        return "holds"
    return "fails" if interval.low > limit or interval.high < -limit else "undecided"


def measured(rows: Sequence[Row]) -> set[str]:
    """Return the settings that rows are of."""
    return {row["setting"] for row in rows}


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if 50 targets rank better with pseudo-labels, and α and M hardly matter.

    "Hardly" is a rank correlation within 0.05 of the default's, with the whole interval.
    """
    default, off = f"{FEW}, both", f"{FEW}, off"
    helps = gain(rows, default, off, DECISIVE)
    grid = [name for name in GRID if f"{FEW}, {name}" in measured(rows)]
    moves = {name: gain(rows, f"{FEW}, {name}", default, DECISIVE) for name in grid}
    farthest = max(moves, key=lambda name: abs(moves[name].value))
    sides = {side: gain(rows, f"{FEW}, {side}", off, DECISIVE) for side in ("bottom", "top")}
    many = gain(rows, f"{MANY}, both", f"{MANY}, off", DECISIVE)
    alone = mean_of(values_of(rows, off, DECISIVE))
    best = gain(rows, default, off, "gold_of_best_of_16")
    return Verdict(
        all_of([above(helps), *(within(move, ALIKE) for move in moves.values())]),
        f"both ends change the rank correlation by {helps} with 50 targets, {many} with 500",
        (
            f"With 50 targets the rank correlation with gold is {alone.value:.2f} without "
            f"pseudo-labels; both ends change it by {helps}, the bottom alone by {sides['bottom']} "
            f"and the top alone by {sides['top']}.",
            f"Of the other α and M the farthest from the default is {farthest.split(', ', 1)[1]}, "
            f"by {moves[farthest]}; with 500 targets both ends change it by {many}. The best of "
            f"16 with 50 targets gains {best} deviations of gold.",
            "The reward is fitted anew for as many steps with the pseudo-labels as without, and "
            "1,000 fresh samples are ranked over all words together, as in the paper.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw what each kind of pseudo-labels adds to no pseudo-labels."""
    for count, color in ((FEW, "C0"), (MANY, "C1")):
        names = [name for name in BOOTSTRAPS if f"{count}, {name}" in measured(rows)]
        names.remove("off")
        gains = [gain(rows, f"{count}, {name}", f"{count}, off", DECISIVE) for name in names]
        places = [list(BOOTSTRAPS).index(name) + (0.2 if count == MANY else 0) for name in names]
        draw_means_across(axes, places, gains, color=color, label=count)
    names = [name.replace("both, ", "") for name in BOOTSTRAPS if name != "off"]
    names[SIDES.index("both") - 1] = "both (α 0.01, M 50)"
    axes.set_yticks(range(1, len(BOOTSTRAPS)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("rank correlation with gold, more than without pseudo-labels")
    axes.legend(fontsize=8)


CLAIM = Claim(
    name="G5",
    title="Pseudo-labels by rank help a little, whatever α and M are",
    source="GAN-RM, arXiv 2506.13846, section 3.1 and the sensitivity to α and M (FID 14.18-14.45)",
    how=(
        "In G1's world a reward is fitted to 50 or 500 targets and as many samples of the "
        "generator. It ranks 1,000 fresh samples; the M best get the labels exp(-αr), the M worst "
        "1 - exp(-αr), and a new reward is fitted to all. By default α is 0.01 and M is 50; M is "
        "never beyond ln 2/α, where labels would flip. The claim holds if, with 50 targets, both "
        "ends raise the rank correlation with gold on 500 held-out samples, and every other α and "
        "M leaves it within 0.05 of the default's, with 95 % intervals over seeds."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
    small_settings=(
        *(f"{FEW}, {name}" for name in (*SIDES, GRID[0])),
        *(f"{MANY}, {name}" for name in ("off", "both")),
    ),
)
