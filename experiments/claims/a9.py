"""A9: adversarial hardening beats ensembles and other defences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import arms
from claims.claim import Claim, Row, Verdict, Word
from claims.intervals import Interval, all_of

MEAN = "none"  # the menu's plain arm climbs the mean of two members
ENSEMBLES = (MEAN, "mean_minus_std", "worst_case")
OTHERS = ("soft_minimum", "par", "kl0.25")
NAMES = {MEAN: "the ensemble's mean", "mean_minus_std": "mean less deviation", "par": "PAR"}


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if the hardened reward outlasts each kind of ensemble."""
    ratios = _ratios(rows, ENSEMBLES)
    others = _ratios(rows, OTHERS)
    return Verdict(
        all_of([_word(found) for found in ratios.values()]),
        f"{ratios[MEAN]} times as long as on the mean of two members",
        (
            f"RLHF on the hardened reward stays above its start for {_list(ratios)} times as long "
            "as on ensembles of the same two members, which need no attack.",
            f"Beside what neither attacks nor doubts the ratio is {_list(others)}.",
            "At equal steps of RLHF; attacks and refits come on top of them, so at equal compute "
            "the hardened reward does worse than this.",
        ),
    )


def _ratios(rows: Sequence[Row], beside: Sequence[str]) -> dict[str, Interval]:
    """Return the hardened reward's ratio to each of the arms that were measured."""
    measured = {row["setting"] for row in rows}
    return {arm: arms.ratio(rows, arms.ADVERSARIAL, arm) for arm in beside if arm in measured}


def _word(found: Interval) -> Word:
    if found.low > 1:
        return "holds"
    return "fails" if found.high < 1 else "undecided"


def _list(ratios: dict[str, Interval]) -> str:
    return ", ".join(f"{found} ({NAMES.get(arm, arm)})" for arm, found in ratios.items())


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw how long each arm lasted beside a single member."""
    arms.draw_ratios(rows, axes, arms.SINGLE, claimed=2.0)


CLAIM = Claim(
    name="A9",
    title="Adversarial hardening outlasts ensembles of the same members",
    source="Adv-RM, arXiv 2504.06141, section 5, whose baselines are the mean and mean - std",
    how=(
        f"{arms.HOW} `paper` is the hardened member of claim A7, `none` the mean of two members, "
        "`mean_minus_std` and `worst_case` what the two make of their disagreement (each in its own "
        "deviations), `soft_minimum`, `par` and `kl0.25` items of the menu."
    ),
    settings=(arms.SINGLE, arms.ADVERSARIAL, *ENSEMBLES, *OTHERS),
    measure=arms.figures_of,
    judge=judge,
    draw=draw,
    seeds=arms.SEEDS,
    small_settings=(arms.SINGLE, arms.ADVERSARIAL, MEAN),
)
