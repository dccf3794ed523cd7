"""What happened, in plain words, from figures and their intervals alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rewardlab.report.figures import Movement, change, mean, movement, sig
from rewardlab.report.picture import slug
from rewardlab.runs.read import NOT_JUDGES, Run, Step, at, method

Outcome = Literal[
    "over-optimised", "worse", "mixed", "better", "reward only", "unchanged", "unknown"
]
Kinds = dict[Movement, list[str]]
OUTCOMES: dict[Outcome, str] = {
    "over-optimised": "over-optimised, the reward rose while a judge got worse",
    "worse": "a judge got worse",
    "mixed": "moved, not all for the better",
    "better": "better by the judges, none got worse",
    "reward only": "only the reward moved",
    "unchanged": "no difference beyond the intervals",
    "unknown": "figures missing",
}


@dataclass(frozen=True)
class Verdict:
    """What a round, or a run, came to."""

    outcome: Outcome
    sentence: str


def judges(*judged: Any) -> list[str]:
    """Return the names of judges and measured attributes in judged figures, each once.

    Example:
        >>> judges({"ink": {"mean": 0.3}, "distance": {"mean": 0.1}}, {"accuracy": {"mean": 0.9}})
        ['accuracy', 'ink']
    """
    return sorted({name for figures in judged for name in figures if name not in NOT_JUDGES})


def verdict(before: Any, after: Any, targets: Any, separation: Any) -> Verdict:
    """Compare judged figures before and after, and the reward's scores of both, beyond their 95 %
    intervals.

    A judge is read by its distance from its own value on the targets, as it is not known which
    judges are better when higher. The distance (KID) is better when lower.

    Example:
        >>> figure = lambda m: {"mean": m, "low": m - 0.01, "high": m + 0.01}
        >>> score = {"score_before": figure(0.0), "score_after": figure(1.0)}
        >>> verdict({"accuracy": figure(0.9)}, {"accuracy": figure(0.7)}, {"accuracy": figure(0.95)}, score).sentence
        'Over-optimised: the reward rose while accuracy got worse.'
    """
    moves = {
        name: movement(at(before, name), at(after, name), at(targets, name))
        for name in judges(before, after)
    }
    if "distance" in before or "distance" in after:
        distance = change(at(before, "distance"), at(after, "distance"))
        moves["distance"] = {"rose": "away", "fell": "toward"}.get(distance, distance)  # type: ignore[assignment]
    reward = change(at(separation, "score_before"), at(separation, "score_after"))
    by_kind = {
        kind: [name for name, move in moves.items() if move == kind] for kind in set(moves.values())
    }
    outcome = _outcome(reward, by_kind)
    return Verdict(outcome, " ".join([*_sentences(outcome, reward, by_kind), *_above(separation)]))


def _outcome(reward: str, kinds: Kinds) -> Outcome:
    toward = kinds.get("toward")
    elsewhere = kinds.get("beside") or kinds.get("changed")
    if kinds.get("away"):
        return "over-optimised" if reward == "rose" else ("mixed" if toward else "worse")
    if toward or elsewhere:
        return "mixed" if elsewhere else "better"
    if "same" not in kinds and "level" not in kinds:
        return "unknown"
    return "unchanged" if reward in ("same", "unknown") else "reward only"


def _sentences(outcome: Outcome, reward: str, kinds: Kinds) -> Iterable[str]:
    rest = {kind: listed(names) for kind, names in kinds.items() if kind not in ("same", "unknown")}
    if outcome == "unchanged" and not rest:
        yield "No difference beyond the intervals" + (
            "." if reward == "same" else ": the judges stand where they stood."
        )
    elif outcome == "over-optimised":
        yield f"Over-optimised: the reward rose while {rest.pop('away')} got worse."
    elif reward != "unknown":
        yield {
            "rose": "The reward rose.",
            "fell": "The reward fell.",
            "same": "The reward stayed within its interval.",
        }[reward]
    words = {
        "toward": "moved toward the targets",
        "away": "got worse",
        "beside": "moved, but about as far from the targets as before",
        "changed": "changed; the targets' own value is not known",
        "level": "moved within the targets' own interval",
    }
    for kind in (kind for kind in words if kind in rest):
        yield f"{capital(rest[kind])} {words[kind]}."
    if kinds.get("same") and (outcome != "unchanged" or rest):
        yield f"No difference beyond the intervals in {listed(kinds['same'])}."
    if kinds.get("unknown"):
        yield f"No intervals to compare in {listed(kinds['unknown'])}."
    if not kinds:
        yield "No judge has figures for both sides, so nothing can be said of the outputs."


def _above(separation: Any) -> list[str]:
    """The sign of a reward that was outrun: it prefers the outputs to the real targets."""
    targets, before, after = (
        at(separation, f"score_{side}") for side in ("targets", "before", "after")
    )
    outrun = change(targets, after) == "rose" and change(targets, before) != "rose"
    return ["The reward now scores the outputs above the real targets."] if outrun else []


def overall(run: Run) -> Verdict:
    """Judge a run from its base to its last round; over-optimised if any round was."""
    steps = run.trained
    if not steps:
        return Verdict("unknown", "No round has finished.")
    each = [step_verdict(step) for step in steps]
    if len(steps) == 1:
        return each[0]
    whole = verdict(run.base, steps[-1].judged, run.targets, {})
    spoilt = [
        str(step.number)
        for step, said in zip(steps, each, strict=True)
        if said.outcome == "over-optimised"
    ]
    if spoilt:
        return Verdict(
            "over-optimised",
            f"Over-optimised in round {listed(spoilt)}. From base to end: {whole.sentence}",
        )
    return Verdict(whole.outcome, f"From base to end: {whole.sentence}")


def step_verdict(step: Step) -> Verdict:
    """Judge one round against the one before, and say whether a guard stopped it."""
    said = verdict(step.before, step.judged, step.run.targets, step.separation)
    if step.guard_stop is None:
        return said
    stop = (
        f"The guard stopped training at step {step.guard_stop} and put the last good weights back."
    )
    return Verdict(said.outcome, f"{said.sentence} {stop}")


def attack_sentence(step: Step) -> str:
    """Say what came of a round that attacked the reward.

    Example:
        >>> from pathlib import Path
        >>> attack = {"funnel": {"counts": {"generated": 50, "disagreeing": 10, "kept": 5}}, "yield": 0.2}
        >>> run = Run(Path(), "a", {"rounds": {"1": {"attack": attack}}}, {}, {}, {})
        >>> attack_sentence(run.steps[0])
        'attacked: of 50 outputs 10 passed gate and disagreement, 5 became pairs (yield 0.200).'
    """
    attack = at(step.figures, "attack")
    counts = at(attack, "funnel", "counts")
    if not counts:
        return "no figures of the policy."
    passed = f"of {counts.get('generated')} outputs {counts.get('disagreeing')} passed gate and disagreement"
    right = mean(at(attack, "funnel", "precision", "kept"))
    agreed = "" if right is None else f", {sig(right)} of them right by the judge"
    return f"attacked: {passed}, {counts.get('kept')} became pairs{agreed} (yield {sig(mean(attack.get('yield')))})."


def course(before: Any, after: Any, targets: Any, separation: Any) -> str:
    """Write each figure before and after: "ink 0.301 → 0.333 (targets 0.335); …", those that there
    are.

    Example:
        >>> course({"ink": {"mean": 0.301}}, {"ink": {"mean": 0.333}}, {"ink": {"mean": 0.335}}, {})
        'ink 0.301 → 0.333 (targets 0.335)'
    """
    names = judges(before, after)
    parts = [
        (name, at(before, name), at(after, name), "targets", at(targets, name)) for name in names
    ]
    parts.append(
        (
            "distance",
            at(before, "distance"),
            at(after, "distance"),
            "real against real",
            at(after, "real_distance"),
        )
    )
    sides = [at(separation, f"score_{side}") for side in ("before", "after", "targets")]
    parts.append(("reward score", *sides[:2], "targets", sides[2]))
    parts.append(("AUC", at(separation, "auc_before"), at(separation, "auc_after"), "", {}))
    return "; ".join(
        _way(*part) for part in parts if mean(part[1]) is not None or mean(part[2]) is not None
    )


def _way(name: str, before: Any, after: Any, beside: str, other: Any) -> str:
    way = f"{name} {sig(mean(before))} → {sig(mean(after))}"
    return way if mean(other) is None else f"{way} ({beside} {sig(mean(other))})"


def step_course(step: Step) -> str:
    """Write each figure of a round before and after it."""
    return course(step.before, step.judged, step.run.targets, step.separation)


def run_course(run: Run) -> str:
    """Write each figure of a run from its base to its end; the reward's too where one round has one
    reward.
    """
    steps = run.trained
    separation = steps[0].separation if len(steps) == 1 else {}
    return course(run.base, steps[-1].judged, run.targets, separation) if steps else ""


def title(run: Run) -> str:
    """Return a run's name and how it was trained, once if they say the same."""
    how = method(run)
    told = how is None or slug(how.replace("β", "beta")) == slug(run.name)
    return run.name if told else f"{run.name} ({how})"


def summary(runs: Sequence[Run]) -> str:
    """Return one plain paragraph about all runs."""
    outcomes = {run.name: overall(run).outcome for run in runs}
    if len(runs) == 1:
        rounds = len(runs[0].trained)
        return f"{rounds or 'No'} finished round{'' if rounds == 1 else 's'}: {OUTCOMES[outcomes[runs[0].name]]}."
    groups = [
        (text, [name for name in outcomes if outcomes[name] == outcome])
        for outcome, text in OUTCOMES.items()
    ]
    return f"{len(runs)} runs. " + " ".join(
        f"{capital(text)}: {', '.join(names)}." for text, names in groups if names
    )


def listed(items: Sequence[str]) -> str:
    """Join with commas and "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
