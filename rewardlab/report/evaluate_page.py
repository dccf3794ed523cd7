"""Make the page of `rewardlab evaluate`: benchmarks, calibration, length, and named biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardlab.evaluation.rm_bench import STYLES
from rewardlab.report.evaluate_plots import bias_picture, calibration_picture, length_picture
from rewardlab.report.figures import MISSING, sig, with_interval
from rewardlab.report.markup import box, details, document, figures, section, table, tag

Figures = Mapping[str, Any]

ABOUT = (
    "A benchmark says how often a reward orders answers as people do. It does not say how long the "
    "reward survives an optimiser: `rewardlab attack` and `rewardlab curve` do."
)
TIES = {
    "tied_accuracy": "several right answers: all lead all wrong ones",
    "ref_accuracy": "one right answer: it leads all wrong ones",
    "preferred": "right answers differ less than they lead wrong ones",
    "preferred_hard": "and less than the single right answer leads, too",
    "margin": "by how much, from −1 to 1",
}
BAD = ("rewarded", "not noticed")


def evaluate_page(results: Figures, facts: Figures) -> str:
    """Return one self-contained page.

    Args:
        results: what results.json holds.
        facts: what run.json holds: the command, versions, device.
    """
    files = results["files"]
    body = [
        tag("h1", f"Evaluation of {results['reward']['location']}"),
        *[box("", tag("p", headline(file), "verdict")) for file in files],
        _bias_box(results["biases"]),
        tag("p", ABOUT, "soft"),
        section("Files", _files_table(files)),
        *[_file_section(file) for file in files],
        _bias_section(results["biases"]),
        section("Where it comes from", _origins(results, facts)),
    ]
    return document(f"{results['reward']['location']}: rewardlab evaluate", body)


def headline(file: Figures) -> str:
    """Return a file's own figure in one sentence.

    Example:
        >>> head = {"name": "score", "mean": 0.5, "low": 0.4, "high": 0.6}
        >>> headline({"title": "RewardBench", "headline": head, "rows": 20, "path": "a/b.jsonl"})
        'RewardBench (b.jsonl): score 0.500 [0.400, 0.600] over 20 rows'
    """
    figure = file["headline"]
    name = Path(file["path"]).name
    value = with_interval(figure)
    return f"{file['title']} ({name}): {figure['name']} {value} over {file['rows']:,} rows"


def bias_sentence(biases: Figures) -> str:
    """Return in one sentence which edits pay."""
    found = [name for name, row in biases["edits"].items() if row["verdict"] == "rewarded"]
    missed = [name for name, row in biases["edits"].items() if row["verdict"] == "not noticed"]
    parts = []
    if found:
        parts.append(f"rewarded without adding content: {', '.join(found)}")
    if missed:
        parts.append(f"not noticed: {', '.join(missed)}")
    if not parts:
        return f"No named edit pays, over {units(biases)}"
    return f"Named edits, over {units(biases)}: {'; '.join(parts)}"


def units(biases: Figures) -> str:
    """Return what an audit was over: prompts, or pictures.

    Example:
        >>> units({"prompts": 20}), units({"pictures": 1200})
        ('20 prompts', '1,200 pictures')
    """
    kind = "pictures" if "pictures" in biases else "prompts"
    return f"{biases[kind]:,} {kind}"


def _bias_box(biases: Figures | None) -> str:
    if biases is None:
        return ""
    is_bad = any(row["verdict"] in BAD for row in biases["edits"].values())
    measured = any(row["mean"] is not None for row in biases["edits"].values())
    kind = "bad" if is_bad else "good" if measured else ""
    return box(kind, tag("p", bias_sentence(biases), "verdict"))


def _files_table(files: Sequence[Figures]) -> str:
    rows = []
    for file in files:
        line = [
            file["path"],
            file["title"],
            f"{file['rows']:,}",
            f"{with_interval(file['headline'])}\n{file['headline']['name']}",
            f"{file['equal']:,}",
            f"{len(file['unscored']):,}",
            left_out(file) or "0",
        ]
        rows.append(line)
    caption = (
        "Equal scores: pairs that the reward gives one score; they count one half of a right "
        "answer, in RM-Bench none. Not scored: rows with an answer that the reward cannot take."
    )
    head = ["file", "form", "rows", "figure", "equal scores", "not scored", "left out"]
    return table(head, rows, caption)


def left_out(file: Figures) -> str:
    """Return how many rows ask nothing, and why."""
    return ", ".join(f"{count:,} {reason}" for reason, count in file["left_out"].items())


def _file_section(file: Figures) -> str:
    pictures = [calibration_picture(file), length_picture(file)]
    return section(
        f"{file['title']}: {Path(file['path']).name}",
        _sections_table(file["sections"]),
        _ties_table(file["ties"]),
        _styles_tables(file["styles"]),
        _subsets_table(file["subsets"]),
        figures(pictures),
        tag("p", calibration_sentence(file["calibration"])),
        tag("p", length_sentence(file["length"])),
    )


def _sections_table(sections: Figures | None) -> str:
    rows = []
    for name, figure in (sections or {}).items():
        rows.append([name, with_interval(figure), ", ".join(figure["missing"]) or "none"])
    caption = "Subsets weighted by the benchmark's numbers of prompts; bootstrap over prompts."
    return table(["section", "score", "subsets that are missing"], rows, caption)


def _ties_table(ties: Figures | None) -> str:
    if ties is None:
        return ""
    rows = [["Ties", with_interval(ties)]]
    for name, meaning in TIES.items():
        rows.append([meaning, sig(ties[name])])
    caption = "Ties is 0.3, 0.3, 0.2, 0.2 and 0.01 of the rows below it; bootstrap over prompts."
    return table(["", "share"], rows, caption)


def _styles_tables(styles: Figures | None) -> str:
    if styles is None:
        return ""
    matrix = []
    for style, cells in zip(STYLES, styles["matrix"], strict=True):
        matrix.append([f"right: {style}", *map(sig, cells)])
    levels = []
    for name in ("hard", "normal", "easy", "average", "style_gap"):
        levels.append([name.replace("_", " "), with_interval(styles[name])])
    domains = []
    for name, figure in styles["domains"].items():
        domains.append([name, f"{figure['count']:,}", with_interval(figure)])
    caption = (
        "Share in which the right answer of one style beats the wrong one of another. Hard: above "
        "the diagonal, where the wrong answer is the fancier one; easy: below; the gap is easy "
        "less hard, and 0 for a reward that does not look at style."
    )
    head = ["", *[f"wrong: {style}" for style in STYLES]]
    return "".join(
        [
            table(head, matrix, caption),
            table(["", "right"], levels, "Bootstrap over prompts."),
            table(["domain", "rows", "right, over all nine cells"], domains),
        ]
    )


def _subsets_table(subsets: Figures) -> str:
    rows = []
    for name, figure in subsets.items():
        low, high = figure["bootstrap"]
        line = [name, f"{figure['count']:,}", with_interval(figure), f"[{sig(low)}, {sig(high)}]"]
        rows.append(line)
    caption = "Wilson's interval, whose units are prompts, and a bootstrap over prompts."
    return table(["subset", "rows", "right", "bootstrap"], rows, caption)


def calibration_sentence(calibration: Figures) -> str:
    """Return what the probabilities of Bradley and Terry are worth."""
    scale = calibration["scale"]
    if scale is None:
        fitted = "every pair is right, so no scale is large enough"
    elif scale == 0:
        fitted = "no scale of the scores would help"
    else:
        fitted = f"scores times {sig(scale)} would be calibrated best"
    return (
        f"Calibration error {sig(calibration['error'])}, log loss {sig(calibration['log_loss'])} "
        f"(a coin's is 0.693); {fitted}."
    )


def length_sentence(length: Figures) -> str:
    """Return how often the reward prefers the longer answer, beside how often it is right."""
    if length["prefers_longer"] is None:
        return "All answers are as long as the one that they are compared with."
    prefers = with_interval(length["prefers_longer"])
    right = with_interval(length["longer_is_right"])
    return f"The reward prefers the longer answer in {prefers} of pairs; it is right in {right}."


def _bias_section(biases: Figures | None) -> str:
    if biases is None:
        return ""
    is_of_pictures = "pictures" in biases
    rows = []
    for name, row in biases["edits"].items():
        raised = MISSING if row["raised"] is None else with_interval(row["raised"])
        effect = MISSING if row["mean"] is None else with_interval(row)
        count = f"{row['count']:,}"
        if row["unchanged"] or row["unscored"]:
            count += f"\n{row['unchanged']:,} unchanged, {row['unscored']:,} not scored"
        cost = row["size"] if is_of_pictures else sig(row["words"])
        rows.append([name, row["verdict"], effect, raised, cost, count])
    last = ["size", "pictures"] if is_of_pictures else ["words added", "answers"]
    head = ["edit", "verdict", "effect", "share that rose", *last]
    picture = bias_picture(biases)
    return section(
        "Named biases",
        figures([picture]) if picture else "",
        table(head, rows, _bias_caption(biases)),
    )


def _bias_caption(biases: Figures) -> str:
    """Return what an effect is, and which edit should lower the score."""
    unit = f"({sig(biases['deviation'])} of the reward's own units)"
    if "pictures" in biases:
        return (
            "Effect: mean change of the score, in deviations of the pictures' scores, within "
            f"prompts where each has several {unit}. Every edit but the last should change "
            "nothing, or little; a blur should lower the score."
        )
    return (
        "Of one right answer a prompt. Effect: mean change of the score, in deviations of answers "
        f"within their prompts {unit}. Every edit but the last should change nothing; a cut-off "
        "end should lower the score."
    )


def _origins(results: Figures, facts: Figures) -> str:
    """Return the command and the fingerprints, and what ran it, folded away."""
    rows = [["command", " ".join(facts["command"])], ["reward", results["reward"]["class"]]]
    prints = [["reward", results["reward"]["fingerprint"]]]
    for path, digest in results["fingerprints"].items():
        prints.append([path, digest])
    versions = [[name, str(value)] for name, value in facts["versions"].items()]
    return "".join(
        [
            table(["what", "value"], rows, kind="facts"),
            details("Fingerprints", table(["what", "value"], prints, kind="facts")),
            details("Versions", table(["what", "value"], versions, kind="facts")),
        ]
    )
