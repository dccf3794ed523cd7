"""Say what happened in plain words, from figures and their intervals alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rewardlab.report.figures import Movement, change, mean, movement, sig
from rewardlab.report.picture import slug
from rewardlab.runs.read import NOT_JUDGES, Run, Step, at, method

Outcome = Literal[
    "over-optimised",
    "worse",
    "mixed",
    "better",
    "reward only",
    "unchanged",
    "no judge",
    "unknown",
]
Kinds = dict[Movement, list[str]]
OUTCOMES: dict[Outcome, str] = {
    "over-optimised": "over-optimised, the reward rose while a judge got worse",
    "worse": "a judge got worse",
    "mixed": "moved, not all for the better",
    "better": "better by the judges, none got worse",
    "reward only": "only the reward moved",
    "unchanged": "no difference beyond the intervals",
    "no judge": "no judge was asked, so only the reward's own scores are known",
    "unknown": "figures missing",
}
MOVES: dict[Movement, str] = {
    "toward": "moved toward the targets",
    "away": "got worse",
    "beside": "moved, but about as far from the targets as before",
    "changed": "changed; the targets' own value is not known",
    "level": "moved within the targets' own interval",
}


@dataclass(frozen=True)
class Verdict:
    """What a round, or a run, came to."""

    outcome: Outcome
    sentence: str


class Line(NamedTuple):
    """A figure before and after, and a reference to read it against.

    Attributes:
        name: of the figure.
        before: the figure before.
        after: the figure after.
        reference_name: what the reference is.
        reference: the reference's figure, or None.
    """

    name: str
    before: Any
    after: Any
    reference_name: str = ""
    reference: Any = None


def judges(*judged: Any) -> list[str]:
    """Return the names of judges and measured attributes in judged figures, each once.

    Example:
        >>> judges({"ink": {"mean": 0.3}, "distance": {"mean": 0.1}}, {"accuracy": {"mean": 0.9}})
        ['accuracy', 'ink']
    """
    names: set[str] = set().union(*judged)
    return sorted(names.difference(NOT_JUDGES))


def verdict(before: Any, after: Any, targets: Any, separation: Any) -> Verdict:
    """Compare judged figures, and the reward's scores, beyond their 95 % intervals.

    A judge is read by its distance from its own value on the targets, as it is not known which
    judges are better when higher. The distance (KID) is better when lower.

    Args:
        before: judged figures before.
        after: judged figures after.
        targets: judged figures of the real targets.
        separation: the reward's scores.

    Example:
        >>> high = {"mean": 0.9, "low": 0.89, "high": 0.91}
        >>> low = {"mean": 0.7, "low": 0.69, "high": 0.71}
        >>> scores = {"score_before": low, "score_after": high}
        >>> verdict({"accuracy": high}, {"accuracy": low}, {"accuracy": high}, scores).sentence
        'Over-optimised: the reward rose while accuracy got worse.'
    """
    kinds = _kinds(before, after, targets)
    reward = change(at(separation, "score_before"), at(separation, "score_after"))
    outcome = _outcome(reward, kinds)
    sentences = _sentences(outcome, reward, kinds)
    if _is_outrun(separation):
        sentences.append("The reward now scores the outputs above the real targets.")
    return Verdict(outcome, " ".join(sentences))


def _kinds(before: Any, after: Any, targets: Any) -> Kinds:
    """Return the judges, and the distance, that moved in each way."""
    kinds: Kinds = {}
    for name in judges(before, after):
        kind = movement(at(before, name), at(after, name), at(targets, name))
        kinds.setdefault(kind, []).append(name)
    if "distance" in before or "distance" in after:
        kind = _distance_movement(at(before, "distance"), at(after, "distance"))
        kinds.setdefault(kind, []).append("distance")
    return kinds


def _distance_movement(before: Any, after: Any) -> Movement:
    difference = change(before, after)
    if difference == "rose":
        return "away"
    if difference == "fell":
        return "toward"
    return difference


def _outcome(reward: str, kinds: Kinds) -> Outcome:
    if "away" in kinds and reward == "rose":
        return "over-optimised"
    if "away" in kinds:
        return "mixed" if "toward" in kinds else "worse"
    if "beside" in kinds or "changed" in kinds:
        return "mixed"
    if "toward" in kinds:
        return "better"
    if not kinds:
        return "no judge"
    if "same" not in kinds and "level" not in kinds:
        return "unknown"
    return "unchanged" if reward in ("same", "unknown") else "reward only"


def _sentences(outcome: Outcome, reward: str, kinds: Kinds) -> list[str]:
    """Return sentences on the outcome, on what moved, and on what did not."""
    moved = [kind for kind in MOVES if kind in kinds]
    sentences = _opening(outcome, reward, kinds)
    for kind in moved:
        if kind != "away" or outcome != "over-optimised":  # else the opening says it
            names = capital(listed(kinds[kind]))
            sentences.append(f"{names} {MOVES[kind]}.")
    if "same" in kinds and (outcome != "unchanged" or moved):
        names = listed(kinds["same"])
        sentences.append(f"No difference beyond the intervals in {names}.")
    if "unknown" in kinds:
        names = listed(kinds["unknown"])
        sentences.append(f"No intervals to compare in {names}.")
    if not kinds:
        sentences.append(
            "No judge was asked, so nothing says whether the outputs got better or worse."
        )
    return sentences


def _opening(outcome: Outcome, reward: str, kinds: Kinds) -> list[str]:
    """Return the first sentence, on the reward; none where its scores are not known."""
    if outcome == "unchanged" and "level" not in kinds:
        if reward == "same":
            return ["No difference beyond the intervals."]
        return ["No difference beyond the intervals: the judges stand where they stood."]
    if outcome == "over-optimised":
        names = listed(kinds["away"])
        return [f"Over-optimised: the reward rose while {names} got worse."]
    if reward == "same":
        return ["The reward stayed within its interval."]
    if reward == "unknown":
        return []
    return [f"The reward {reward}."]


def _is_outrun(separation: Any) -> bool:
    """Return whether the reward prefers the outputs to the real targets, as it did not before."""
    targets = at(separation, "score_targets")
    before = at(separation, "score_before")
    after = at(separation, "score_after")
    return change(targets, after) == "rose" and change(targets, before) != "rose"


def overall(run: Run) -> Verdict:
    """Compare a run's base with its last round; it is over-optimised if any round was."""
    steps = run.trained
    if not steps:
        return Verdict("unknown", "No round has finished.")
    if len(steps) == 1:
        return step_verdict(steps[0])
    whole = verdict(run.base, steps[-1].judged, run.targets, {})
    sentence = f"From base to end: {whole.sentence}"
    bad_rounds = []
    for step in steps:
        if step_verdict(step).outcome == "over-optimised":
            bad_rounds.append(str(step.number))
    if not bad_rounds:
        return Verdict(whole.outcome, sentence)
    return Verdict("over-optimised", f"Over-optimised in round {listed(bad_rounds)}. {sentence}")


def step_verdict(step: Step) -> Verdict:
    """Compare one round with the one before, and say whether a guard stopped it."""
    compared = verdict(step.before, step.judged, step.run.targets, step.separation)
    if step.guard_stop is None:
        return compared
    stop = (
        f"The guard stopped training at step {step.guard_stop} and put the last good weights back."
    )
    return Verdict(compared.outcome, f"{compared.sentence} {stop}")


def attack_sentence(step: Step) -> str:
    """Say what came of a round that attacked the reward.

    Example:
        >>> from pathlib import Path
        >>> counts = {"generated": 50, "disagreeing": 10, "kept": 5}
        >>> attack = {"funnel": {"counts": counts}, "yield": 0.1}
        >>> run = Run(Path(), "a", {"rounds": {"1": {"attack": attack}}}, {}, {}, {})
        >>> said, _, pairs = attack_sentence(run.steps[0]).partition(", ")
        >>> said
        'attacked: of 50 outputs the reward likes and the witness doubts 10'
        >>> pairs
        '5 became pairs (yield 0.100).'
    """
    attack = at(step.figures, "attack")
    counts = at(attack, "funnel", "counts")
    if not counts:
        return "no figures of the policy."
    generated = counts.get("generated")
    disagreeing = counts.get("disagreeing")
    pairs = f"{counts.get('kept')} became pairs"
    precision = mean(at(attack, "funnel", "precision", "kept"))
    if precision is not None:
        pairs += f", {sig(precision)} of them right by the judge"
    passed = f"of {generated} outputs the reward likes and the witness doubts {disagreeing}"
    share = sig(attack.get("yield"))
    return f"attacked: {passed}, {pairs} (yield {share})."


def course(before: Any, after: Any, targets: Any, separation: Any) -> str:
    """Return each known figure before and after: "ink 0.301 → 0.333 (targets 0.335); …".

    Example:
        >>> course({"ink": {"mean": 0.301}}, {"ink": {"mean": 0.333}}, {"ink": {"mean": 0.335}}, {})
        'ink 0.301 → 0.333 (targets 0.335)'
    """
    lines = [
        *_judge_lines(before, after, targets),
        Line(
            "distance",
            at(before, "distance"),
            at(after, "distance"),
            "real against real",
            at(after, "real_distance"),
        ),
        Line(
            "reward score",
            at(separation, "score_before"),
            at(separation, "score_after"),
            "targets",
            at(separation, "score_targets"),
        ),
        Line("AUC", at(separation, "auc_before"), at(separation, "auc_after")),
    ]
    return "; ".join(_line_text(line) for line in lines if _has_figures(line))


def _judge_lines(before: Any, after: Any, targets: Any) -> list[Line]:
    lines = []
    for name in judges(before, after):
        line = Line(
            name,
            at(before, name),
            at(after, name),
            "targets",
            at(targets, name),
        )
        lines.append(line)
    return lines


def _has_figures(line: Line) -> bool:
    return mean(line.before) is not None or mean(line.after) is not None


def _line_text(line: Line) -> str:
    before = sig(line.before)
    after = sig(line.after)
    text = f"{line.name} {before} → {after}"
    if mean(line.reference) is None:
        return text
    reference = sig(line.reference)
    return f"{text} ({line.reference_name} {reference})"


def step_course(step: Step) -> str:
    """Return each figure of a round before and after it."""
    return course(step.before, step.judged, step.run.targets, step.separation)


def run_course(run: Run) -> str:
    """Return each figure of a run from its base to its end.

    The reward's is among them where one round has one reward.
    """
    steps = run.trained
    if not steps:
        return ""
    last = steps[-1]
    separation = last.separation if len(steps) == 1 else {}
    return course(run.base, last.judged, run.targets, separation)


def title(run: Run) -> str:
    """Return a run's name and how it was trained, once if they say the same."""
    training = method(run)
    if training is None:
        return run.name
    if slug(training.replace("β", "beta")) == slug(run.name):
        return run.name
    return f"{run.name} ({training})"


def summary(runs: Sequence[Run]) -> str:
    """Return one plain paragraph about all runs."""
    if len(runs) == 1:
        return _summary_of_one(runs[0])
    names: dict[Outcome, list[str]] = {}
    for run in runs:
        names.setdefault(overall(run).outcome, []).append(run.name)
    sentences = [f"{len(runs)} runs."]
    for outcome, text in OUTCOMES.items():
        if outcome in names:
            runs_of_outcome = ", ".join(names[outcome])
            sentences.append(f"{capital(text)}: {runs_of_outcome}.")
    return " ".join(sentences)


def _summary_of_one(run: Run) -> str:
    count = len(run.trained)
    rounds = "round" if count == 1 else "rounds"
    outcome = overall(run).outcome
    return f"{count or 'No'} finished {rounds}: {OUTCOMES[outcome]}."


def listed(items: Sequence[str]) -> str:
    """Return the items joined with commas and "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if len(items) < 2:
        return "".join(items)
    *others, last = items
    return f"{', '.join(others)} and {last}"


def capital(text: str) -> str:
    """Return `text` with a capital first letter."""
    return text[:1].upper() + text[1:]
