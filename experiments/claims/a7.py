"""A7: RLHF on a reward that was hardened by two rounds of attacks stays stable 2 to 3 times longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import arms
from claims.claim import Claim, Row, Verdict, Word
from claims.intervals import Interval, gain, mean_of, values_of

CLAIMED = 2.0


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if the ratio's interval is above 1 and reaches 2; it fails below 2."""
    found = arms.ratio(rows, arms.ADVERSARIAL, arms.SINGLE)
    peak = gain(rows, arms.ADVERSARIAL, arms.SINGLE, "peak")
    plain = _falls(rows, arms.SINGLE)
    hardened = _falls(rows, arms.ADVERSARIAL)
    costs = mean_of(values_of(rows, arms.ADVERSARIAL, "generations")).value
    cost = costs / mean_of(values_of(rows, arms.SINGLE, "generations")).value
    return Verdict(
        _word(found),
        f"{found} times as long as on the conventional reward",
        (
            f"Gold fell in {hardened} runs on the hardened reward and in {plain} on the "
            f"conventional one; the restricted mean time until then is {found} times as long.",
            f"The peak of gold changes by {peak} σ, and the hardened run draws {cost:.1f} times as "
            "many samples, attacks included.",
            "One world, members of one backbone and a recipe that was not tuned to it; what "
            "holds instead is in [the menu side by side](../studies/menu.md).",
        ),
    )


def _word(found: Interval) -> Word:
    if found.high < CLAIMED:
        return "fails"
    return "holds" if found.low > 1 else "undecided"


def _falls(rows: Sequence[Row], arm: str) -> str:
    falls = [row["fall"] for row in rows if row["setting"] == arm]
    return f"{sum(fall is not None for fall in falls)} of {len(falls)}"


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the step of fall of both arms, a line a seed."""
    axes.axhline(arms.menu.HORIZON, color="grey", linewidth=0.8, linestyle="--")
    arms.draw_both(rows, axes, "fall", missing=arms.menu.HORIZON)
    axes.set_ylabel("step at which gold fell (dashed: the last step)")


CLAIM = Claim(
    name="A7",
    title="RLHF stays stable two to three times longer on an adversarially hardened reward",
    source="Adv-RM, arXiv 2504.06141, abstract and section 5",
    how=(
        f"{arms.HOW} The conventional reward is a single member; the hardened one is the same after"
        " two rounds of the paper's recipe (configs/adv_rm/study_paper.yaml: absolute disagreement,"
        " up to 1,000 pairs a round). A fall is gold 0.1 σ below its start, averaged over two "
        "readings; the restricted mean counts a run that did not fall with its last step."
    ),
    settings=(arms.SINGLE, arms.ADVERSARIAL),
    measure=arms.figures_of,
    judge=judge,
    draw=draw,
    seeds=arms.SEEDS,
)
