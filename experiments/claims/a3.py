"""A3: without the gate on the target, the adversary only pleases the witness's dislike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import text_world
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.intervals import above, all_of, gain, mean_of, values_of
from rewardlab.rewards import Relative
from rewardlab.rewards.scoring import scores_of

GATED = "gate"
UNGATED = "no gate"


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Train an adversary, with or without the gate, and measure what it found."""
    scene = text_world.scene(work, seed)
    options = {} if setting == GATED else {"threshold": -1e6}
    attack = text_world.attack_on(scene, **options)
    found = text_world.adversary(scene, attack, seed, steps=3 if work.small else 100)
    target = Relative(scene.target, scene.references)
    witness = Relative(scene.witness, scene.references)
    return {
        **text_world.rates(text_world.success(scene, found)),
        "target": scores_of(target, found).mean().item(),
        "witness": scores_of(witness, found).mean().item(),
    }


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if without the gate success and the target's score both are lower."""
    success = gain(rows, GATED, UNGATED, "success")
    target = gain(rows, GATED, UNGATED, "target")
    bare = mean_of(values_of(rows, UNGATED, "target"))
    return Verdict(
        all_of([above(success), above(target)]),
        f"success {success} higher with the gate, the target's score {target} higher",
        (
            f"With the gate the adversary's success rate is {success} higher than without.",
            f"Without it the target's score of what is found is {bare} deviations above the mean "
            "reference.",
            "λ is 1 and both adversaries train for 100 steps; the ungated one is R1 - λ·R2 alone.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the target's and the witness's score, a point a seed."""
    for setting in (GATED, UNGATED):
        target = values_of(rows, setting, "target")
        axes.scatter(target, values_of(rows, setting, "witness"), label=setting)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("target, deviations above the mean reference")
    axes.set_ylabel("witness, the same")
    axes.legend()


CLAIM = Claim(
    name="A3",
    title="The gate on the target's score is needed",
    source="Adv-RM, arXiv 2504.06141, equation 3",
    how=(
        "An adversary is trained by RLOO for 100 steps on R1 - λ·R2 with λ = 1, where both scores "
        "are in deviations of eight references a prompt: with the penalty where the target is "
        "below the mean reference, and without. Success is the paper's, by the counted gold of "
        "the help topics."
    ),
    settings=(GATED, UNGATED),
    measure=measure,
    judge=judge,
    draw=draw,
)
