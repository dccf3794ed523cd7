"""Symptoms of over-optimization that need no judge, and what of the menu answers them.

A symptom is a figure that moved beyond its noise and past a threshold. Each threshold says where it
comes from: a study of this library, or a rule of thumb.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from rewardlab.report import remedies
from rewardlab.report.remedies import MENU
from rewardlab.report.run_figures import TOLERANCE, Change, OwnFigures, Setting

Measure = Literal[
    "level", "excess", "growth", "shrinkage", "fall", "deviations", "alarm", "silence"
]
Outputs = Literal["texts", "pictures", "any"]


@dataclass(frozen=True)
class Symptom:
    """A figure that tells of over-optimization, and what answers it.

    Attributes:
        advice: what to do.
        columns: of metrics.csv; the first that a run has is read.
        measure: what is compared with the threshold. "level": the last value; "excess": what it is
            above 1; "growth": last over first; "shrinkage": first over last; "fall": their
            difference; "deviations": the rise in `score_std` of the start; "alarm": the guard's
            standard errors above the lowest reading before; "silence": the score's rise in its
            deviations where the guard's monitor gave no alarm. Ratios are compared by their
            logarithms.
        threshold: above which it counts.
        outputs: of which policies it is a symptom. Nats of pictures are of a mean over dimensions,
            and not comparable.
        meaning: in one sentence.
        basis: where the threshold comes from.
        needs: how to get the figure; "" where runs without it lack nothing.
        remedy: what to lay over the same command, for a run's setting; nothing if it does not fit.
    """

    advice: str
    columns: tuple[str, ...]
    measure: Measure
    threshold: float
    outputs: Outputs
    meaning: str
    basis: str
    needs: str
    remedy: Callable[[Setting], tuple[str, ...]]


def size_of(symptom: Symptom, figures: OwnFigures, change: Change) -> float:
    """Return a change in multiples of the symptom's threshold; 0 if it is noise or the other way.

    Args:
        symptom: whose measure is taken.
        figures: of the same run, for the deviation of its scores.
        change: of the symptom's figure.
    """
    if symptom.measure == "alarm":
        return _alarm(figures, change)
    if symptom.measure == "silence":
        return _silence(figures, change) / symptom.threshold
    falls = symptom.measure in ("shrinkage", "fall")
    if change.is_flat or (change.last < change.first) != falls:
        return 0.0
    size = MEASURES[symptom.measure](figures, change)
    if symptom.measure in ("growth", "shrinkage"):
        return math.log(size) / math.log(symptom.threshold) if size > 0 else 0.0
    return size / symptom.threshold


def concerns(symptom: Symptom, figures: OwnFigures) -> bool:
    """Return whether a symptom is one of a run's loop and outputs, and has an answer there."""
    if not symptom.remedy(figures.setting):
        return False
    if symptom.outputs == "any":
        return True
    return symptom.outputs == outputs_of(figures)


def outputs_of(figures: OwnFigures) -> Outputs:
    """Return what a policy makes, as far as its figures tell."""
    names = figures.changes
    if any(name.endswith(("norm_ratio", "/distance")) for name in names):
        return "pictures"
    if figures.setting.loop in ("ReFL", "VelocityMatching"):
        return "pictures"
    return "texts"


def _level(figures: OwnFigures, change: Change) -> float:
    return change.last


def _excess(figures: OwnFigures, change: Change) -> float:
    return change.last - 1


def _growth(figures: OwnFigures, change: Change) -> float:
    return change.last / change.first if change.first > 0 else 0.0


def _shrinkage(figures: OwnFigures, change: Change) -> float:
    return change.first / change.last if change.last > 0 else 0.0


def _fall(figures: OwnFigures, change: Change) -> float:
    return change.first - change.last


def _deviations(figures: OwnFigures, change: Change) -> float:
    spread = figures.changes.get("score_std")
    if spread is None or spread.first <= 0:
        return 0.0
    return (change.last - change.first) / spread.first


def _alarm(figures: OwnFigures, change: Change) -> float:
    alarm = figures.alarms.get(change.name)
    return 0.0 if alarm is None else alarm.size


def _silence(figures: OwnFigures, change: Change) -> float:
    return 0.0 if change.name in figures.alarms else score_rise(figures)


def score_rise(figures: OwnFigures) -> float:
    """Return the rise of the mean score, in deviations of single scores at the start."""
    score = figures.changes.get("score")
    if score is None or score.is_flat:
        return 0.0
    return _deviations(figures, score)


MEASURES: Mapping[Measure, Callable[[OwnFigures, Change], float]] = {
    "level": _level,
    "excess": _excess,
    "growth": _growth,
    "shrinkage": _shrinkage,
    "fall": _fall,
    "deviations": _deviations,
    "alarm": _alarm,
    "silence": _silence,
}


LOGGED_BY_PPO = "PPO logs it every ten steps (in a fit, every trainer.log_every_n_steps); take 40"
GUARD_STUDY = "docs/studies/guard.md: 3 standard errors, twice in a row; a fall may come before it"
NORM_STUDY = "docs/studies/norm_ratio.md, one seed:"
GUARD = f"{MENU}monitors.yaml (rounds)"
SYMPTOMS = (
    Symptom(
        advice="Hold the policy to its start by a KL",
        columns=("reading/kl", "kl"),
        measure="level",
        threshold=10.0,
        outputs="texts",
        meaning=(
            "The policy is so many nats an output away from its start that the reward is asked "
            "about texts unlike those it was fitted on."
        ),
        basis=(
            "docs/studies/hardening.md: runs that held ended at 7 ± 2 nats, with kl_weight 0.25, "
            "and runs that fell at 31 ± 3"
        ),
        needs="train by PPO, or add evaluation.Readings",
        remedy=remedies.hold,
    ),
    Symptom(
        advice="Bound what the reward can gain (PAR)",
        columns=("score",),
        measure="deviations",
        threshold=3.0,
        outputs="any",
        meaning=(
            "The mean score rose by this many deviations of single scores at the start, to where "
            "hardly one of the first policy's outputs was: there the reward extrapolates."
        ),
        basis="a rule of thumb: the mean of the best of about 450 normal scores is 3 deviations up",
        needs=LOGGED_BY_PPO,
        remedy=remedies.bound,
    ),
    Symptom(
        advice="Take the length out of the reward",
        columns=("length",),
        measure="growth",
        threshold=1.25,
        outputs="texts",
        meaning="Outputs grow longer while the reward rises, which it may like for the length.",
        basis="a rule of thumb",
        needs=LOGGED_BY_PPO,
        remedy=remedies.calibrate_length,
    ),
    Symptom(
        advice="Keep the policy varied by a KL",
        columns=("entropy",),
        measure="shrinkage",
        threshold=2.0,
        outputs="texts",
        meaning="The policy decides between fewer tokens than it did: it repeats what scores well.",
        basis="a rule of thumb",
        needs=LOGGED_BY_PPO,
        remedy=remedies.hold,
    ),
    Symptom(
        advice="Let doubting members decide",
        columns=("guard/disagreement",),
        measure="alarm",
        threshold=TOLERANCE,
        outputs="any",
        meaning="The members part over what the policy makes; they may agree later, all in error.",
        basis=GUARD_STUDY,
        needs=f"a reward of several members and evaluation.Guard: {GUARD}",
        remedy=remedies.soft_minimum,
    ),
    Symptom(
        advice="Take members and a witness of another backbone",
        columns=("guard/disagreement",),
        measure="silence",
        threshold=3.0,
        outputs="texts",
        meaning=(
            "The score rose to where hardly one of the first policy's outputs was, and the members "
            "went along: either the policy is that good, or they share the blind spot."
        ),
        basis=(
            "a rule of thumb, the score's; that members of another pretraining part more: arXiv "
            "2312.09244"
        ),
        needs="",
        remedy=remedies.other_backbone,
    ),
    Symptom(
        advice="Tether the outputs to what the first policy makes",
        columns=("reading/outliers", "guard/outliers"),
        measure="level",
        threshold=0.1,
        outputs="any",
        meaning="This share of the outputs lies outside of what the first policy makes (MOP).",
        basis=(
            "a rule of thumb, ten times the level of the test; that the tether holds: "
            "docs/studies/hardening.md, no fall in 5 of 5 seeds"
        ),
        needs=f"evaluation.Readings or Guard with `outliers`: {MENU}mop.yaml (rounds)",
        remedy=remedies.tether,
    ),
    Symptom(
        advice="Let members pass on little about an output (information bottleneck)",
        columns=("reading/outliers", "guard/outliers"),
        measure="level",
        threshold=0.2,
        outputs="texts",
        meaning=(
            "Members score so many outputs unlike those they were fitted on by what a head with "
            "few nats would not let through (InfoRM)."
        ),
        basis="a rule of thumb, twice the tether's (arXiv 2402.09345)",
        needs="",
        remedy=remedies.bottleneck,
    ),
    Symptom(
        advice="Hold the generator nearer, or stop it",
        columns=("guard/distance",),
        measure="growth",
        threshold=2.0,
        outputs="pictures",
        meaning="Outputs move away from the held-out targets while the reward rises.",
        basis=f"{NORM_STUDY} with the judge's fall or before, and in two runs without such a fall",
        needs=f"evaluation.Guard in rounds with targets: {GUARD}",
        remedy=remedies.hold_pictures,
    ),
    Symptom(
        advice="Stop where a held-out reward turns",
        columns=("guard/classifier",),
        measure="alarm",
        threshold=TOLERANCE,
        outputs="pictures",
        meaning="A reward that nothing is optimized against scores the outputs ever lower.",
        basis=f"{GUARD_STUDY}, and on the digits it fell without such an alarm",
        needs="evaluation.Guard with watch: [classifier] in rounds with targets",
        remedy=remedies.stop,
    ),
    Symptom(
        advice="Hold the length of the velocities",
        columns=("norm_ratio", "guard/norm_ratio", "reading/norm_ratio"),
        measure="excess",
        threshold=0.05,
        outputs="pictures",
        meaning="The generator's velocities outgrow the reference's, which saturates pictures.",
        basis=f"{NORM_STUDY} passed where the judge fell, and by 0.003 in one run where it did not",
        needs="train by DPO, PPO or VelocityMatching, or add evaluation.NormReading",
        remedy=remedies.norm_guard,
    ),
    Symptom(
        advice="Take smaller steps",
        columns=("clip_fraction",),
        measure="level",
        threshold=0.3,
        outputs="any",
        meaning="This share of the ratios is clipped: steps are larger than PPO's loss allows for.",
        basis="a rule of thumb",
        needs=LOGGED_BY_PPO,
        remedy=remedies.smaller_steps,
    ),
    Symptom(
        advice="Let good samples that lie apart count more",
        columns=("score_std",),
        measure="shrinkage",
        threshold=3.0,
        outputs="texts",
        meaning="The scores of a rollout become alike, so what is left to learn from is noise.",
        basis="a rule of thumb",
        needs=LOGGED_BY_PPO,
        remedy=remedies.vary,
    ),
    Symptom(
        advice="Do not let preferred outputs become unlikely (χPO)",
        columns=("chosen",),
        measure="fall",
        threshold=1.0,
        outputs="texts",
        meaning=(
            "The policy makes even the chosen outputs less likely, in nats: its mass goes to what "
            "no pair holds."
        ),
        basis="a rule of thumb (Huang et al., arXiv 2407.13399)",
        needs="DPO logs it every ten steps (in a fit, every trainer.log_every_n_steps); take 40",
        remedy=remedies.chi_po,
    ),
    Symptom(
        advice="Let the correction weigh more",
        columns=("online_lead",),
        measure="level",
        threshold=4.0,
        outputs="any",
        meaning=(
            "The correction tells wanted outputs from the policy's ever better, so the policy "
            "leaves them faster than it is pulled back."
        ),
        basis="a rule of thumb, in nats between wanted and own outputs",
        needs="",
        remedy=remedies.heavier_correction,
    ),
)
