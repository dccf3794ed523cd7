"""G10: the reward has to learn against the policy as it is, in each round anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.intervals import Interval, above, gain, mean_of, values_of
from claims.rounds_world import HOW, figures_of, judged, unseen_figures

FRESH = "refreshed"
FROZEN = "frozen"
SETTINGS = tuple(f"{arm}, round {number}" for arm in (FRESH, FROZEN) for number in (1, 2, 3))
SMALL_SETTINGS = (f"{FRESH}, round 1", f"{FROZEN}, round 1", f"{FROZEN}, round 2")


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Return what the judges say after a round, with the negatives drawn anew or kept."""
    arm, _, number = setting.partition(", round ")
    run = judged(work, seed, "DPO", refresh=arm == FRESH)
    figures = figures_of(run, int(number), work, seed)
    return {**figures, **unseen_figures(work, seed)}


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if with frozen negatives the last round ends farther from unseen targets."""
    last = rounds_of(rows, FRESH)[-1]
    ends = (f"{FROZEN}, round {last}", f"{FRESH}, round {last}")
    distance = gain(rows, *ends, "distance")
    proxies = {arm: proxy(rows, arm) for arm in (FRESH, FROZEN)}
    wanted = mean_of(values_of(rows, ends[0], "ink_of_targets")).value
    return Verdict(
        above(distance),
        f"with frozen negatives round {last} ends {distance} farther from unseen targets",
        (
            f"After round {last} the policy with frozen negatives is {distance} farther (KID) from "
            f"unseen targets than with refreshed ones, "
            f"{mean_of(values_of(rows, ends[0], 'distance'))} against "
            f"{mean_of(values_of(rows, ends[1], 'distance'))}.",
            f"Targets have an ink of {wanted:.2f} deviations; with frozen negatives it becomes "
            f"{mean_of(values_of(rows, ends[0], 'ink'))}, with refreshed ones "
            f"{mean_of(values_of(rows, ends[1], 'ink'))}, and digits read as their prompts say in "
            f"{mean_of(values_of(rows, ends[0], 'accuracy'))} and "
            f"{mean_of(values_of(rows, ends[1], 'accuracy'))}; the reward of the last round rises "
            f"by {proxies[FROZEN]} and {proxies[FRESH]} in it.",
            f"The loop is DPO, in {last} short rounds of long steps; a policy that moves less in a "
            "round leaves its old negatives less far behind.",
        ),
    )


def rounds_of(rows: Sequence[Row], arm: str) -> list[int]:
    """Return the rounds of an arm that were measured."""
    settings = {row["setting"] for row in rows}
    return sorted(int(name.split()[-1]) for name in settings if name.startswith(arm))


def proxy(rows: Sequence[Row], arm: str) -> Interval:
    """Return how far the reward of an arm's last round rises in it."""
    return mean_of(values_of(rows, f"{arm}, round {rounds_of(rows, arm)[-1]}", "proxy_gain"))


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the distance after each round, a line an arm."""
    for arm, marker in ((FRESH, "o"), (FROZEN, "s")):
        rounds = rounds_of(rows, arm)
        settings = [f"{arm}, round {number}" for number in rounds]
        means = means_of(rows, settings, "distance")
        draw_means(axes, rounds, means, marker=marker, label=arm)
    floor = mean_of(values_of(rows, SETTINGS[0], "distance_of_targets")).value
    axes.axhline(floor, color="grey", linestyle=":", linewidth=1.2, label="other targets")
    axes.set_xticks(rounds)
    axes.set_xlabel("round")
    axes.set_ylabel("distance from unseen targets (KID)")
    axes.legend(title="negatives")


CLAIM = Claim(
    name="G10",
    title="Refreshing the negatives each round matters",
    source="GAN-RM, arXiv 2506.13846, section 3.1, and a reviewer's question",
    how=(
        f"{HOW} The loop is DPO; with `refresh_negatives` (the runs of G4), or with the negatives "
        "of round 1 kept for all rounds, so that the reward never sees what the policy has become. "
        "The distance is KID from the 400 unseen targets, of pixels; ink is gold, the proxy's gain is that of "
        "the round's own reward in the round. It holds if after the last round the distance is "
        "larger with frozen negatives, the interval of the paired difference above 0."
    ),
    settings=SETTINGS,
    small_settings=SMALL_SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
