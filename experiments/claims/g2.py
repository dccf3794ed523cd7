"""G2: more targets make a better reward, up to a plateau at a few hundred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.image_world import auc, fitted, ink, parts, pool, rank_correlation
from claims.intervals import Interval, above, all_of, gain, mean_of, values_of
from rewardlab.metrics import best_of_n_expected
from rewardlab.rewards.scoring import scores_of

COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000)
SETTINGS = tuple(f"{count} targets" for count in COUNTS)
FEWEST, MIDDLE, MOST = "10 targets", "500 targets", "2000 targets"
DECISIVE = "rank_correlation"
SHARE = 0.1  # of the gain up to 500 targets that the last factor of four may bring at a plateau


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Fit a reward to the first so many of a seed's targets, and rank what is held out."""
    count = int(setting.split()[0])
    targets, negatives, held_out, base = parts(work, COUNTS[-1], seed)
    steps = 20 if work.small else 300
    reward = fitted(targets[:count], negatives[:count], seed, steps=steps)
    scores = scores_of(reward, base)
    gold = ink(base, pool(work))
    return {
        "auc": auc(scores_of(reward, held_out), scores),
        "rank_correlation": rank_correlation(scores, gold),
        "gold_of_best_of_16": best_of_n_expected(scores, gold, 16),
        "best_possible": best_of_n_expected(gold, gold, 16),
    }


def slack(rows: Sequence[Row]) -> Interval:
    """Return a tenth of the gain from 10 to 500 targets, less that from 500 to 2,000, by seed."""
    fewest = values_of(rows, FEWEST, DECISIVE)
    middle = values_of(rows, MIDDLE, DECISIVE)
    most = values_of(rows, MOST, DECISIVE)
    triples = zip(fewest, middle, most, strict=True)
    return mean_of([SHARE * (half - low) - (high - half) for low, half, high in triples])


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if 500 targets rank better than 10, and 2,000 hardly better than 500.

    "Hardly" is a gain below a tenth of that from 10 to 500, both by the rank correlation.
    """
    helps = gain(rows, MIDDLE, FEWEST, DECISIVE)
    more = gain(rows, MOST, MIDDLE, DECISIVE)
    best = {name: mean_of(values_of(rows, name, "gold_of_best_of_16")) for name in (FEWEST, MIDDLE)}
    last = mean_of(values_of(rows, MOST, "gold_of_best_of_16"))
    ceiling = mean_of(values_of(rows, MOST, "best_possible"))
    return Verdict(
        all_of([above(helps), above(slack(rows))]),
        f"rank correlation with gold: {helps} more from 10 to 500 targets, {more} from 500 to 2000",
        (
            f"From 10 to 500 targets the rank correlation with gold rises by {helps}, and from 500 "
            f"to 2000 by {more}; a plateau was to be less than a tenth of the first.",
            f"The best of 16 samples has {best[FEWEST].value:.2f} deviations of gold with 10 "
            f"targets, {best[MIDDLE].value:.2f} with 500 and {last.value:.2f} with 2000, where "
            f"gold's own choice has {ceiling.value:.2f}.",
            "Every fit takes 300 steps, whatever the number of targets, and the target differs "
            "from the generator in one direction of a small tower's features; a target that "
            "differs in many would want more samples.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw all figures over the number of targets."""
    measured = {row["setting"] for row in rows}
    settings = [name for name in SETTINGS if name in measured]
    counts = [int(setting.split()[0]) for setting in settings]
    for figure, label in (
        ("rank_correlation", "rank correlation with gold"),
        ("auc", "AUC of held-out targets"),
        ("gold_of_best_of_16", "gold of the best of 16, deviations"),
    ):
        draw_means(axes, counts, means_of(rows, settings, figure), label=label)
    ceiling = [mean_of(values_of(rows, setting, "best_possible")).value for setting in settings]
    axes.plot(counts, ceiling, ls=":", color="C2", label="the same, were gold to choose")
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("targets, and as many samples of the generator")
    axes.set_ylabel("AUC, correlation, or deviations of gold")
    lines, names = axes.get_legend_handles_labels()
    axes.legend([*lines[1:], lines[0]], [*names[1:], names[0]], fontsize=8)


CLAIM = Claim(
    name="G2",
    title="More targets make a better reward, up to a plateau at about 500",
    source="GAN-RM, arXiv 2506.13846, table 11",
    how=(
        "The world is G1's. A seed's targets are nested: each setting takes the first so many of "
        "the same 2,000, and as many samples of the generator; what is held out (500 and 500) is "
        "the same for all. The claim holds if the rank correlation with gold on the generator's "
        "held-out samples rises from 10 to 500 targets, and its gain from 500 to 2,000 is less "
        "than a tenth of that, both by 95 % intervals over seeds. The best of 16 is estimated "
        "without bias from the 500 held-out samples."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
    small_settings=(FEWEST, MIDDLE, MOST),
)
