"""Make the page of one attack.

It has the verdict, shares beside their floors, the funnel, kinds of exploit, and the worst of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rewardlab.report.figures import MISSING, sig
from rewardlab.report.grids import grids
from rewardlab.report.markup import box, details, document, figures, section, table, tag
from rewardlab.report.samples import Shown
from rewardlab.types import Samples

Exploit = Mapping[str, Any]

WORST = 20
BOXES = {"broken": "bad", "held": "good"}
SIDES = {
    "attack": "the attack",
    "fresh": "fresh samples",
    "best_of_n": "the best of n fresh samples",
    "over_fresh": "attack over fresh",
    "over_best_of_n": "attack over best of n",
}


def attack_page(
    results: Mapping[str, Any],
    rows: Sequence[Exploit],
    made_by: Mapping[str, Any],
    drawn: Mapping[str, Samples],
) -> str:
    """Return one self-contained page.

    Args:
        results: what results.json holds.
        rows: of exploits.jsonl, the worst first.
        made_by: fingerprints of what took part, attacker and seed.
        drawn: the samples of "attack" and "references"; images are shown from here.
    """
    verdict = results["verdict"]
    word = verdict["word"]
    body = [
        tag("h1", f"Attack by {made_by['attacker']}"),
        box(BOXES.get(word, "flat"), tag("p", verdict["sentence"], "verdict")),
        section("How often", _shares(results)),
        section("What is left after each step", _funnel(results["funnel"])),
        section("Kinds of exploit", _kinds(results.get("taxonomy"), len(rows))),
        _worst(rows, drawn),
        section("Where it comes from", _origins(made_by)),
    ]
    return document(f"rewardlab attack: {word}", body)


def _shares(results: Mapping[str, Any]) -> str:
    """Return the share of each side by each measure of success."""
    measures = results["measures"]
    rows = []
    for side, label in SIDES.items():
        shares = [_share(measure[side]) for measure in measures.values()]
        rows.append([label, *shares])
    caption = (
        f"Per cent of outputs with 95 % intervals over {results['prompts']} prompts. "
        "standard, strict: the reward is for the output and the judge against it "
        f"(best of {results['best_of']}). disagreeing: the reward is for it and the witness far "
        "less. Only what is above the floors is the attack's doing."
    )
    return table(["", *measures], rows, caption)


def _share(estimate: Mapping[str, float]) -> str:
    """Return a share in per cent, its interval below it."""
    value = f"{estimate['value'] * 100:.1f}"
    low = f"{estimate['low'] * 100:.1f}"
    high = f"{estimate['high'] * 100:.1f}"
    return f"{value}\n[{low}, {high}]"


def _funnel(funnel: Mapping[str, Any]) -> str:
    """Return how many outputs are left after each step, with the judge's agreement if known."""
    precision = funnel.get("precision")
    head = ["step", "left"]
    if precision:
        head.append("judge agrees")
    rows = []
    for step, count in funnel["counts"].items():
        row = [step, str(count)]
        if precision:
            row.append(sig(precision[step]))
        rows.append(row)
    caption = "What would become training pairs: at most one a prompt, the reference chosen."
    return table(head, rows, caption)


def _kinds(taxonomy: Mapping[str, Any] | None, count: int) -> str:
    """Return how many of `count` exploits have each label, beside the references' shares."""
    if not taxonomy:
        return ""
    shares = taxonomy["shares"]
    reference_shares = taxonomy["reference_shares"]
    rows = []
    for label, number in taxonomy["counts"].items():
        share = sig(shares[label])
        reference_share = sig(reference_shares[label])
        rows.append([label, str(number), share, reference_share])
    head = ["label", "exploits", "share", "references"]
    return table(head, rows, f"Labels of {count} exploits; one may have several.")


def _worst(rows: Sequence[Exploit], samples: Mapping[str, Samples]) -> str:
    """Return the section of the worst exploits, as images or as text."""
    if not rows:
        return section("Exploits", tag("p", "None."))
    shown = rows[:WORST]
    title = f"The worst {len(shown)} of {len(rows)} exploits"
    if isinstance(samples["attack"].outputs, Tensor):
        return section(title, _grid(shown, samples))
    return section(title, _texts(shown))


def _texts(rows: Sequence[Exploit]) -> str:
    """Return exploits of text beside their references."""
    lines = []
    for row in rows:
        line = [
            str(row["prompt_id"]),
            _visible(row["prompt"]),
            _visible(row["output"]),
            _visible(row["reference"]),
            _scores(row),
            ", ".join(row["labels"]) or MISSING,
        ]
        lines.append(line)
    head = [
        "prompt",
        "its words",
        "exploit",
        "the reference that the reward likes best",
        "scores, exploit | reference",
        "kind",
    ]
    return table(head, lines, kind="text")


def _visible(text: str) -> str:
    """Return the text with pictures of its control characters, except tabs and line breaks.

    Example:
        >>> _visible("a\\x08b\\n")
        'a␈b\\n'
    """
    letters = ""
    for letter in text:
        code = ord(letter)
        if code < 32 and letter not in "\n\t":
            letters += chr(0x2400 + code)
        else:
            letters += letter
    return letters


def _scores(row: Exploit) -> str:
    """Return the scores of an exploit and of its reference, a line a reward."""
    lines = []
    for name, score in row["scores"].items():
        reference_score = sig(row["reference_scores"][name])
        lines.append(f"{name} {sig(score)} | {reference_score}")
    disagreement = sig(row["disagreement"])
    lines.append(f"disagreement {disagreement}")
    return "\n".join(lines)


def _grid(rows: Sequence[Exploit], samples: Mapping[str, Samples]) -> str:
    """Return exploits as images beside their references, and their scores folded away."""
    prompts = []
    exploits = []
    references = []
    lines = []
    for row in rows:
        prompts.append(row["prompt"])
        exploits.append(_pixels(samples["attack"], row["row"]))
        references.append(_pixels(samples["references"], row["reference_row"]))
        lines.append([str(row["prompt_id"]), row["prompt"], _scores(row)])
    parts = [
        Shown("exploits", "#c2410c", prompts, exploits),
        Shown("best-liked references", "#4a4f57", prompts, references),
    ]
    picture = grids(parts, "exploits", 2, "In equal places: the same prompt.")
    head = ["prompt", "its words", "scores, exploit | reference"]
    scores = table(head, lines, kind="text")
    return figures([picture]) + details("Their scores", scores)


def _pixels(samples: Samples, row: int) -> Tensor:
    """Return an image, or a video's middle frame, as uint8 [C, H, W]."""
    image = samples.outputs[row]
    if image.dim() == 4:  # type: ignore[union-attr]
        image = image[len(image) // 2]
    return (image * 255).round().byte()  # type: ignore[union-attr]


def _origins(made_by: Mapping[str, Any]) -> str:
    """Return fingerprints, attacker and seed."""
    rows = []
    for name, value in made_by.items():
        if value is None:
            rows.append([name, MISSING])
        elif isinstance(value, list):
            rows.append([name, ", ".join(value)])
        else:
            rows.append([name, str(value)])
    return table(["what", "value"], rows)
