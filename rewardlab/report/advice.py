"""Say from a user's own short runs what of the menu to try first, without reading any judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rewardlab.report.figures import sig
from rewardlab.report.menu_evidence import Evidence, evidence_of
from rewardlab.report.run_figures import TOLERANCE, Change, OwnFigures
from rewardlab.report.symptoms import SYMPTOMS, Symptom, concerns, score_rise, size_of

SEPARATED = 0.9  # AUC of one plain attribute between targets and generated samples
ALREADY = "The command has this already, so it was not enough:"
NOTHING = "Nothing that was read tells of over-optimization."


class Advice(NamedTuple):
    """One thing to try.

    Attributes:
        advice: what to do.
        evidence: what was measured, a sentence a run.
        meaning: in one sentence.
        lay_over: flags for the same command.
        basis: where the threshold comes from.
        strength: the change in multiples of the threshold, as a mean over all runs.
        measured: what the menu's study measured of it; None if nothing.
    """

    advice: str
    evidence: tuple[str, ...]
    meaning: str
    lay_over: tuple[str, ...]
    basis: str
    strength: float
    measured: Evidence | None = None

    @property
    def rank(self) -> tuple[int, float]:
        """What is sorted by: what helped in the study first, what hurt last, then the strength."""
        effect = 0 if self.measured is None else self.measured.effect
        return -effect, -self.strength


class Counsel(NamedTuple):
    """What a set of runs says.

    Attributes:
        advices: what to try first, first.
        unread: figures that no run has, and how to get them.
    """

    advices: tuple[Advice, ...]
    unread: tuple[str, ...]


def advise(runs: Sequence[OwnFigures]) -> Counsel:
    """Return what to try first, and what was not read.

    What helped in the menu's study comes first and what hurt there last; among equals the strongest
    comes first.

    Args:
        runs: what each run says of its own training (`own_figures`).

    Example:
        >>> from rewardlab.report.run_figures import OwnFigures, Setting, change_of
        >>> kl = change_of("kl", [(step, 2.0 * step) for step in range(16)])
        >>> setting = Setting("fit", "PPO", "", {"kl_weight": 0.0}, ())
        >>> [advice] = advise([OwnFigures("a", setting, {"kl": kl}, {}, ())]).advices
        >>> advice.lay_over, round(advice.strength, 1)
        (('--model.init_args.kl_weight=0.25',), 2.7)
    """
    advices = []
    unread = []
    for symptom in SYMPTOMS:
        concerned = [run for run in runs if concerns(symptom, run)]
        changes = [_change(symptom, run) for run in concerned]
        if concerned and not any(changes) and symptom.needs:
            unread.append(f"{' or '.join(symptom.columns)}: {symptom.needs}")
        advice = _advice(symptom, concerned, len(runs))
        if advice is not None:
            advices.append(advice)
    advices += _data_advices(runs)
    advices.sort(key=lambda advice: advice.rank)
    return Counsel(tuple(advices), tuple(unread))


def _change(symptom: Symptom, run: OwnFigures) -> Change | None:
    """Return the change of the first of a symptom's figures that a run has."""
    for name in symptom.columns:
        if name in run.changes:
            return run.changes[name]
    return None


def _advice(symptom: Symptom, runs: Sequence[OwnFigures], count: int) -> Advice | None:
    """Return the advice of a symptom that some of `count` runs show."""
    evidence = []
    sizes = []
    lay_over: tuple[str, ...] = ()
    for run in runs:
        change = _change(symptom, run)
        size = 0.0 if change is None else size_of(symptom, run, change)
        if change is not None and size >= 1:
            evidence.append(_evidence(symptom, run, change))
            sizes.append(size)
            lay_over = lay_over or symptom.remedy(run.setting)
    if not evidence:
        return None
    strength = sum(sizes) / count
    meaning = symptom.meaning
    if all(run.setting.has_laid(lay_over) for run in runs):
        meaning = f"{meaning} {ALREADY} {' '.join(lay_over)}"
        lay_over = ()
    return Advice(
        symptom.advice,
        tuple(evidence),
        meaning,
        lay_over,
        symptom.basis,
        strength,
        evidence_of(lay_over),
    )


def _evidence(symptom: Symptom, run: OwnFigures, change: Change) -> str:
    """Say how a figure moved."""
    if symptom.measure == "alarm":
        alarm = run.alarms[change.name]
        errors = alarm.size * TOLERANCE
        return (
            f"{run.name}: {change.name} {sig(alarm.lowest)} → {sig(alarm.value)} at step "
            f"{alarm.step:.0f}, {errors:.1f} standard errors above its lowest reading before"
        )
    if symptom.measure == "silence":
        return (
            f"{run.name}: score rose by {score_rise(run):.1f} deviations, and {change.name}, "
            f"{sig(change.first)} → {sig(change.last)}, gave no alarm"
        )
    quarters = f"first and last quarter of {change.readings} readings up to step {change.step:.0f}"
    moved = f"{run.name}: {change.name} {sig(change.first)} → {sig(change.last)}"
    return f"{moved} ({quarters}; noise of a reading ±{sig(change.noise)})"


def _data_advices(runs: Sequence[OwnFigures]) -> list[Advice]:
    """Return what diagnostics of the data say: attributes that tell targets apart by themselves."""
    worst: dict[str, float] = {}
    evidence = []
    for run in runs:
        attributes = _separating(run.diagnostics)
        worst |= attributes
        for name, auc in attributes.items():
            evidence.append(f"{run.name}: {name} alone tells targets from samples, AUC {auc:.2f}")
    if not worst:
        return []
    lay_over: tuple[str, ...] = ()
    if "autoencoder" in worst:
        lay_over = ("--rounds.init_args.targets.init_args.reconstruct=true",)
    return [
        Advice(
            "Take what gives targets away out of the data",
            tuple(dict.fromkeys(evidence)),
            "A reward learns such a shortcut first, and a policy that climbs it gets no better.",
            lay_over,
            "a rule of thumb; the run's page and log.txt name the cure of each",
            max(worst.values()) / SEPARATED,
        )
    ]


def _separating(diagnostics: Sequence[Any]) -> dict[str, float]:
    """Return the AUC of each attribute that separates targets beyond chance."""
    found = {}
    for entry in diagnostics:
        figures = entry.get("figures") if isinstance(entry, Mapping) else None
        aucs = figures.get("auc") if isinstance(figures, Mapping) else None
        if isinstance(figures, Mapping) and isinstance(aucs, Mapping):
            for name, auc in aucs.items():
                if isinstance(auc, int | float) and auc >= max(SEPARATED, figures.get("chance", 0)):
                    found[str(name)] = float(auc)
    return found
