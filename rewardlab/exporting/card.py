"""The model card of an exported reward: what is known of it, and what was not measured."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rewardlab.exporting.comparison import Comparison
from rewardlab.exporting.evidence import Evidence, Results, Training
from rewardlab.exporting.usage import Context
from rewardlab.report.figures import sig, with_interval
from rewardlab.version import __version__

NOT_MEASURED = "Not measured"
LIMITS = (
    "A policy that is optimized against it finds outputs that it overrates; the figures above say "
    "how far that was tried.",
    "Scores of outputs unlike its training data are guesses.",
)
MEASURES = {
    "disagreeing": "reward and witness disagree",
    "standard": "the judge prefers a reference",
    "strict": "the judge puts it 1.96 deviations below",
}


class Subject(NamedTuple):
    """What is exported, and in which form it stands.

    Attributes:
        name: of the reward's class.
        meaning: what its scores are.
        source: the folder that it was exported from.
        fingerprint: of that folder.
        form: "transformers" or "onnx".
        modality: "text" or "image".
        dtype: of the weights.
        comparison: of the export with the reward.
        usage: Python code that scores with the folder.
        limits: sentences on what the export does otherwise.
        command: words of the export's command; empty where a program called the library.
        context: how much it sees of a text; None of one that sees no texts.
    """

    name: str
    meaning: str
    source: str
    fingerprint: str
    form: str
    modality: str
    dtype: str
    comparison: Comparison
    usage: str
    limits: Sequence[str]
    command: Sequence[str]
    context: Context | None = None


def model_card(subject: Subject, evidence: Evidence) -> str:
    """Return a folder's README.md: Markdown behind YAML front matter, whose facts are JSON.

    Every figure is one that a file of the evidence holds. A part without figures says that it was
    not measured.

    Args:
        subject: what is exported.
        evidence: what is known of it.
    """
    parts = [
        _front_matter(subject, evidence),
        _head(subject),
        f"## Use\n\n```python\n{subject.usage}```",
        *_context(subject),
        _equality(subject),
        _training(evidence.training),
        _held_out(evidence.training),
        _benchmarks(evidence.evaluations),
        _attacks(evidence.attacks),
        _biases(evidence.evaluations),
        _limits(subject),
        _commands(subject, evidence),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(subject: Subject, evidence: Evidence) -> str:
    """Return the metadata; its JSON is YAML too."""
    is_text = subject.modality == "text"
    library = "transformers" if subject.form == "transformers" else "onnx"
    facts = {
        "version": __version__,
        "reward": subject.name,
        "meaning": subject.meaning,
        "fingerprint": subject.fingerprint,
        "dtype": subject.dtype,
        "context": None if subject.context is None else subject.context.tokens,
        "comparison": subject.comparison._asdict(),
        "data": None if evidence.training is None else evidence.training.data,
        "held_out": None if evidence.training is None else evidence.training.held_out,
        "attacks": [_attack_facts(attack) for attack in evidence.attacks] or None,
        "benchmarks": _benchmark_facts(evidence.evaluations) or None,
        "biases": _bias_facts(evidence.evaluations) or None,
    }
    return "\n".join(
        [
            "---",
            f"library_name: {library}",
            f"pipeline_tag: {'text' if is_text else 'image'}-classification",
            "tags: [reward-model, rewardlab]",
            f"rewardlab: {json.dumps(facts, ensure_ascii=False)}",
            "---",
        ]
    )


def _head(subject: Subject) -> str:
    unit = "a prompt and a response" if subject.modality == "text" else "a picture"
    return (
        f"# A reward: {subject.name}, exported to {subject.form}\n\n"
        f"One score for {unit}; higher is better. What it means, as its training says: "
        f'"{subject.meaning}". It was exported by rewardlab {__version__} from '
        f"`{subject.source}` (fingerprint `{subject.fingerprint}`). rewardlab is not needed to use "
        "it."
    )


def _context(subject: Subject) -> list[str]:
    """Return the part on texts that are long, if it sees texts."""
    if subject.context is None:
        return []
    return [f"## Context\n\n{subject.context.sentences}"]


def _equality(subject: Subject) -> str:
    comparison = subject.comparison
    return (
        "## Equal to the reward\n\n"
        f"On {comparison.samples} probes the largest absolute difference from the reward's own "
        f"scores, and its members' where they are given, is {comparison.difference:.2g} "
        f"({subject.dtype}; the largest score is {comparison.largest:.3g}). More than "
        f"{comparison.tolerance:.2g} would have been refused."
    )


def _training(training: Training | None) -> str:
    head = "## Data"
    if training is None:
        return f"{head}\n\nNot known: no run folder was given when it was exported."
    if not training.data:
        return f"{head}\n\nNot known: the run folder names no data that is there."
    rows = [[name, f"`{value}`"] for name, value in training.data.items()]
    return f"{head}\n\n{_table(['data', 'fingerprint'], rows)}"


def _held_out(training: Training | None) -> str:
    head = "## Accuracy on held-out data"
    if training is None or not training.held_out:
        return f"{head}\n\n{NOT_MEASURED}, or not in the files that were given."
    rows = [[name, sig(value)] for name, value in training.held_out.items()]
    said = f"\n\n{training.sentence}" if training.sentence else ""
    return (
        f"{head}\n\n{_table(['figure', 'value'], rows)}{said}\n\nHeld-out data are from where the "
        "training data are from; they say nothing of what an optimizer finds."
    )


def _benchmarks(evaluations: Sequence[Results]) -> str:
    head = "## Benchmarks and preferences"
    rows = []
    for evaluation in evaluations:
        for file in evaluation.figures["files"]:
            headline = file["headline"]
            figure = with_interval(headline)
            rows.append([file["title"], file["path"], headline["name"], figure, str(file["rows"])])
    if not rows:
        return f"{head}\n\n{NOT_MEASURED}: `rewardlab evaluate` does."
    names = ["benchmark", "file", "figure", "value [95 %]", "rows"]
    return f"{head}\n\n{_table(names, rows)}"


def _attacks(attacks: Sequence[Results]) -> str:
    head = "## Robustness"
    if not attacks:
        return f"{head}\n\n{NOT_MEASURED}: `rewardlab attack` does. An optimizer may break it."
    parts = [head]
    for attack in attacks:
        rows = []
        for name, measure in attack.figures["measures"].items():
            columns = ("attack", "fresh", "best_of_n", "over_fresh", "over_best_of_n")
            shares = [_share(measure[column]) for column in columns]
            rows.append([MEASURES.get(name, name), *shares])
        best = f"best of {attack.figures['best_of']}"
        names = ["success", "attack", "fresh samples", best, "over fresh", f"over {best}"]
        parts.append(f"`{shlex.join(attack.command)}`" if attack.command else f"`{attack.path}`")
        parts.append(attack.figures["verdict"]["sentence"])
        parts.append(_table(names, rows))
    return "\n\n".join(parts)


def _biases(evaluations: Sequence[Results]) -> str:
    head = "## Named biases"
    audits = [part.figures["biases"] for part in evaluations if part.figures.get("biases")]
    if not audits:
        return f"{head}\n\n{NOT_MEASURED}: `rewardlab evaluate` does, for texts."
    parts = [head]
    for audit in audits:
        rows = []
        for name, row in audit["edits"].items():
            rows.append([name, with_interval(row), str(row["count"]), str(row["verdict"])])
        parts.append(
            f"The effect of edits that add nothing, in reference deviations, over "
            f"{audit['prompts']} prompts."
        )
        parts.append(_table(["edit", "effect [95 %]", "answers", "verdict"], rows))
    return "\n\n".join(parts)


def _limits(subject: Subject) -> str:
    """Return what is known not to hold, beginning with what holds of every reward."""
    lines = "\n".join(f"* {sentence}" for sentence in (*LIMITS, *subject.limits))
    return f"## Limits\n\n{lines}"


def _commands(subject: Subject, evidence: Evidence) -> str:
    """Return the commands that made the reward, its figures and this folder, in order."""
    commands: list[Sequence[str]] = []
    if evidence.training is not None:
        commands.append(evidence.training.command)
    commands += [part.command for part in (*evidence.attacks, *evidence.evaluations)]
    commands.append(subject.command)
    lines = [shlex.join(command) for command in commands if command]
    if not lines:
        return "## Commands\n\nNot known: the library was called from a program."
    block = "\n".join(lines)
    return f"## Commands\n\n```bash\n{block}\n```"


def _share(figure: Mapping[str, Any]) -> str:
    """Return a share as the reports write it."""
    return with_interval({"mean": figure["value"], "low": figure["low"], "high": figure["high"]})


def _attack_facts(attack: Results) -> dict[str, Any]:
    figures = attack.figures
    return {"verdict": figures["verdict"]["word"], "measures": figures["measures"]}


def _benchmark_facts(evaluations: Sequence[Results]) -> list[dict[str, Any]]:
    facts = []
    for evaluation in evaluations:
        for file in evaluation.figures["files"]:
            facts.append({"title": file["title"], "path": file["path"], **file["headline"]})
    return facts


def _bias_facts(evaluations: Sequence[Results]) -> dict[str, Any]:
    facts = {}
    for evaluation in evaluations:
        audit = evaluation.figures.get("biases") or {"edits": {}}
        for name, row in audit["edits"].items():
            facts[name] = {end: row[end] for end in ("mean", "low", "high", "verdict")}
    return facts


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
    return "\n".join(lines)
