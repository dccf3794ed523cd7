"""G11: rounds do not destroy the diversity of what the generator makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means
from claims.intervals import Interval, above, all_of, mean_of, values_of
from claims.rounds_world import (
    BASE,
    HOW,
    LOOPS,
    SETTINGS,
    SMALL_SETTINGS,
    features,
    judged,
    parsed,
    rounds_of_rows,
    samples_of,
    settings_of,
    unseen_targets,
)
from rewardlab.metrics import coverage, diversity, precision_recall

KEPT = 0.8  # share of the generator's own figure below which diversity counts as destroyed
FIGURES = ("recall", "coverage", "diversity")


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Return how widely the generator's outputs are spread, or a policy's after a round."""
    loop, number = parsed(setting)
    outputs = features(samples_of(judged(work, seed, loop), number))
    real = features(unseen_targets(work, seed)[0])
    precision, recall = precision_recall(real, outputs)
    return {
        "recall": recall,
        "coverage": coverage(real, outputs),
        "diversity": diversity(outputs),
        "precision": precision,
        "diversity_of_targets": diversity(real),
    }


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if after the last round each figure is above 0.8 of the generator's own."""
    last = rounds_of_rows(rows)[-1]
    kept = {
        (loop, figure): share(rows, f"{loop}, round {last}", figure)
        for loop in LOOPS
        for figure in FIGURES
    }
    least = min(kept, key=lambda key: kept[key].value)
    targets = mean_of(values_of(rows, BASE, "diversity_of_targets")).value
    own = mean_of(values_of(rows, BASE, "diversity")).value
    exact = [
        mean_of(values_of(rows, name, "precision")).value
        for name in (BASE, *(f"{loop}, round {last}" for loop in LOOPS))
    ]
    return Verdict(
        all_of([above(interval, KEPT) for interval in kept.values()]),
        f"least kept: {least[1]} by {least[0]}, {kept[least]} of the generator's",
        (
            f"After round {last} SFT keeps {sentence(kept, 'SFT')} of the generator's own, DPO "
            f"{sentence(kept, 'DPO')}.",
            f"Targets are spread by {targets:.2f} in the same features, the generator by "
            f"{own:.2f}, so a mean distance hides what recall shows: precision goes from "
            f"{exact[0]:.2f} to {exact[1]:.2f} by SFT and {exact[2]:.2f} by DPO.",
            "The figures see spread in one network's features; 300 outputs are compared with 400 "
            "targets, and a few copies among them would not be seen.",
        ),
    )


def share(rows: Sequence[Row], setting: str, figure: str) -> Interval:
    """Return a setting's figure as a share of the generator's, paired by seed."""
    ours = values_of(rows, setting, figure)
    own = values_of(rows, BASE, figure)
    return mean_of([value / base for value, base in zip(ours, own, strict=True)])


def sentence(kept: dict[tuple[str, str], Interval], loop: str) -> str:
    """Return a loop's shares in words."""
    parts = [f"{kept[loop, figure]} ({figure})" for figure in FIGURES]
    return ", ".join(parts[:-1]) + f" and {parts[-1]}"


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw each figure's share of the generator's after each round, a color a figure."""
    rounds = rounds_of_rows(rows)
    for color, figure in enumerate(FIGURES):
        for loop, line, marker in (("SFT", "--", "o"), ("DPO", "-", "s")):
            settings = settings_of(loop, rounds)
            means = [share(rows, setting, figure) for setting in settings]
            style = {"color": f"C{color}", "linestyle": line, "marker": marker}
            draw_means(axes, [0, *rounds], means, label=f"{figure}, {loop}", **style)
    axes.axhline(KEPT, color="grey", linestyle=":", linewidth=1.2)
    axes.set_xticks([0, *rounds], ["generator", *(f"{number}" for number in rounds)])
    axes.set_xlabel("round")
    axes.set_ylabel("share of the generator's own")
    axes.legend(fontsize="small")


CLAIM = Claim(
    name="G11",
    title="Rounds do not destroy diversity",
    source="GAN-RM, arXiv 2506.13846, section 4, and what its reviewers ask",
    how=(
        f"{HOW} The run folders are those of G4. Recall (of 3 neighbours) and coverage (of 5) are "
        "of the 400 unseen targets; diversity is the mean distance of two outputs; all in features of "
        "the judge's network, which no loop saw. It holds if "
        "after the last round, by SFT and by DPO, each of the three is above 0.8 of the "
        "generator's own, its whole interval over seeds."
    ),
    settings=SETTINGS,
    small_settings=SMALL_SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
