"""A4: without the witness (λ = 0) the adversary is no more than plain over-optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import attacks
from claims.claim import Claim, Figures, Row, Verdict, Word, Work
from claims.intervals import Interval, above, all_of, gain, mean_of, values_of

WITH = "λ = 1"
WITHOUT = "λ = 0"
PLAIN = "plain RLHF on R1"
SAME = 0.1  # a difference of success that is called none


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Measure what an adversary with or without the witness found."""
    if setting == PLAIN:
        found = attacks.plain(work, seed)
    else:
        found = attacks.adversary(work, seed, weight=1.0 if setting == WITH else 0.0)
    return attacks.figures(attacks.scene_of(work, seed), found)


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if λ = 0 succeeds less than λ = 1, and as plain RLHF within a margin."""
    lead = gain(rows, WITH, WITHOUT, "success")
    difference = gain(rows, WITHOUT, PLAIN, "success")
    rate = {name: mean_of(values_of(rows, name, "success")) for name in (WITH, WITHOUT)}
    gold = {name: mean_of(values_of(rows, name, "gold")) for name in (WITH, WITHOUT)}
    alone = values_of(rows, WITHOUT, "success")
    broken = sum(value > 0.9 for value in alone)
    return Verdict(
        all_of([above(lead), within(difference)]),
        f"success {lead} higher with the witness; without it {difference} above plain RLHF",
        (
            f"Success is {rate[WITH]} with λ = 1 and {rate[WITHOUT]} with λ = 0, which alone comes "
            f"above 0.9 in {broken} of {len(alone)} seeds.",
            f"Gold of what is found is {gold[WITH]} and {gold[WITHOUT]} deviations from the mean "
            "reference: where over-optimisation breaks the target by itself, the witness adds "
            "nothing to success.",
            f"Both train for {attacks.STEPS} steps; plain over-optimisation goes on and succeeds "
            "more often where it trains longer.",
        ),
    )


def within(interval: Interval, margin: float = SAME) -> Word:
    """Return "holds" for an interval within ± a margin, and "fails" for one that is outside it."""
    if -margin < interval.low and interval.high < margin:
        return "holds"
    return "fails" if interval.low > margin or interval.high < -margin else "undecided"


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the target's score and gold of what each found, a point a seed."""
    for number, (setting, marker) in enumerate(zip((WITH, WITHOUT, PLAIN), "os^", strict=True)):
        target = values_of(rows, setting, "target")
        gold = values_of(rows, setting, "gold")
        axes.scatter(target, gold, color=f"C{number}", marker=marker, label=setting)
        across, down = mean_of(target), mean_of(gold)
        style: dict[str, Any] = {"color": f"C{number}", "alpha": 0.35, "capsize": 3}
        width, height = across.high - across.value, down.high - down.value
        axes.errorbar(across.value, down.value, height, width, **style)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("target (proxy), deviations above the mean reference; crosses: means, 95 %")
    axes.set_ylabel("gold, the same")
    axes.legend()


CLAIM = Claim(
    name="A4",
    title="The witness is needed: λ = 0 is plain over-optimisation",
    source="Adv-RM, arXiv 2504.06141, equation 3",
    how=(
        f"Adversaries are trained by RLOO for {attacks.STEPS} steps of 64 responses on R1 - λ·R2 "
        "with the gate on R1, with λ = 1 and λ = 0; plain RLHF alike on R1 alone, without the "
        "gate. Success is the paper's standard rate, by the counted gold of the help topics. The "
        "claim holds if the 95 % interval over seeds of the lead of λ = 1 is above 0 and that of "
        f"λ = 0 over plain RLHF lies within ±{SAME:g}; it fails if the first is below 0 or the "
        "second outside. The attacks of λ = 1 and of plain RLHF are A2's, so the minutes below are "
        "without theirs."
    ),
    settings=(WITH, WITHOUT, PLAIN),
    measure=measure,
    judge=judge,
    draw=draw,
)
