"""A8: hardening does not cost accuracy on clean pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import arms, text_world
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.intervals import above, gain, mean_of, values_of
from rewardlab.embedded import topics
from rewardlab.rewards.scoring import scores_of

FRESH_SEED = 1000  # no run's pairs are of this seed
ALLOWED = -0.01


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Return a run's reward's accuracy on fresh pairs, the same for all."""
    count = 40 if work.small else 4000
    pairs = topics.preferences(count, FRESH_SEED, text_world.train_steps_of(work))
    reward = arms.reward_of(setting, seed, work)
    margins = scores_of(reward, pairs.chosen) - scores_of(reward, pairs.rejected)
    return {"accuracy": (margins > 0).double().mean().item(), "margin": margins.mean().item()}


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if the loss is shown to be below one percentage point."""
    change = gain(rows, arms.ADVERSARIAL, arms.SINGLE, "accuracy")
    before = mean_of(values_of(rows, arms.SINGLE, "accuracy"))
    after = mean_of(values_of(rows, arms.ADVERSARIAL, "accuracy"))
    return Verdict(
        above(change, ALLOWED),
        f"accuracy changes by {100 * change.value:.1f} [{100 * change.low:.1f}, "
        f"{100 * change.high:.1f}] percentage points",
        (
            f"Before hardening the reward orders {before} of fresh pairs as gold does, after two "
            f"rounds {after}.",
            "The paper reports a gain of 0.7 points on RewardBench; a loss of one point or more "
            "counts as a failure here.",
            "Pairs are of the base policy's own responses, as those that the members learned from; "
            "up to 2,000 adversarial pairs come to 1,000 clean ones, which is far from one in ten.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw both accuracies, a line a seed."""
    arms.draw_both(rows, axes, "accuracy")
    axes.set_ylabel("share of fresh pairs ordered as by gold")


CLAIM = Claim(
    name="A8",
    title="Hardening costs no accuracy on clean pairs",
    source="Adv-RM, arXiv 2504.06141, section 5 (RewardBench)",
    how=(
        "The rewards of claim A7's runs score 4,000 fresh pairs of the base policy's responses, "
        "labelled by gold, which no run has seen; both rewards of a seed see the same pairs."
    ),
    settings=(arms.SINGLE, arms.ADVERSARIAL),
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=arms.SEEDS,
)
