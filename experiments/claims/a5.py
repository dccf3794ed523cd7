"""A5: a heavier witness makes attacks more successful, until the gate is not passed any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import attacks
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.intervals import above, all_of, gain, mean_of, values_of

WEIGHTS = {"λ = 0": 0.0, "λ = 0.5": 0.5, "λ = 1": 1.0, "λ = 2": 2.0, "λ = 4": 4.0}
LEAST, MIDDLE, MOST = "λ = 0", "λ = 1", "λ = 4"


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Measure what an adversary of one weight found."""
    found = attacks.adversary(work, seed, weight=WEIGHTS[setting])
    return attacks.figures(attacks.scene_of(work, seed), found)


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if strict success rises from λ = 0 to 1, and the gate is missed at 4."""
    rise = gain(rows, MIDDLE, LEAST, "strict_success")
    missed = gain(rows, MIDDLE, MOST, "passes_gate")
    strict = {
        name: mean_of(values_of(rows, name, "strict_success"))
        for name in attacks.present(rows, WEIGHTS)
    }
    course = ", ".join(f"{interval} at {name}" for name, interval in strict.items())
    target = mean_of(values_of(rows, MOST, "target"))
    return Verdict(
        all_of([above(rise), above(missed)]),
        f"strict success rises by {rise} from λ = 0 to 1; {missed} fewer pass the gate at λ = 4",
        (
            f"Strict success is {course}.",
            f"At {MOST} the target's score of what is found is {target} deviations above the mean "
            "reference.",
            f"All train for {attacks.STEPS} steps, with a penalty of 10 deviations below the gate.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the rates over λ, with intervals over seeds."""
    labels = {
        "passes_gate": "passes the gate",
        "success": "standard success",
        "strict_success": "strict success",
    }
    names = attacks.present(rows, WEIGHTS)
    for number, (figure, label) in enumerate(labels.items()):
        places = [place + 0.06 * (number - 1) for place in range(len(names))]
        draw_means(axes, places, means_of(rows, names, figure), label=label)
    axes.set_xticks(range(len(names)), [f"{WEIGHTS[name]:g}" for name in names])
    axes.set_ylim(-0.05, 1.1)
    axes.set_xlabel("λ, the weight of the witness")
    axes.set_ylabel("share; whiskers: 95 % interval over seeds")
    axes.legend()


CLAIM = Claim(
    name="A5",
    title="A heavier witness raises strict success, until the gate fails",
    source="Adv-RM, arXiv 2504.06141, equation 3: λ",
    how=(
        f"Adversaries are trained by RLOO for {attacks.STEPS} steps of 64 responses on R1 - λ·R2 "
        "with the gate on R1, for five λ. Strict success counts responses that the target puts "
        "above the mean of the prompt's references and gold more than 1.96 deviations below it. "
        "The claim holds if the 95 % intervals over seeds of both are above 0: strict success at "
        "λ = 1 less that at 0, and the share that passes the gate at λ = 1 less that at 4. It "
        "fails if one is below. The attacks of λ = 0 and 1 are A4's and A2's, so the minutes below "
        "are without theirs."
    ),
    settings=tuple(WEIGHTS),
    measure=measure,
    judge=judge,
    draw=draw,
    small_settings=("λ = 0", "λ = 1", "λ = 4"),
)
