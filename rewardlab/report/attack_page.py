"""The page of one attack: verdict, shares beside their floors, funnel, kinds of exploit, and the
worst of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rewardlab.report.figures import sig
from rewardlab.report.markup import details, document, figures, section, table, tag
from rewardlab.report.samples import Shown, grids
from rewardlab.types import Samples

WORST = 20
SIDES = {
    "attack": "the attack",
    "fresh": "fresh samples",
    "best_of_n": "the best of n fresh samples",
    "over_fresh": "attack over fresh",
    "over_best_of_n": "attack over best of n",
}


def attack_page(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
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
    kind = {"broken": "bad", "held": "good"}.get(verdict["word"], "flat")
    head = f'<div class="run {kind}">{tag("p", verdict["sentence"], "verdict")}</div>'
    images = isinstance(drawn["attack"].outputs, Tensor)
    count = f"The worst {min(WORST, len(rows))} of {len(rows)} exploits"
    body = [
        tag("h1", f"Attack by {made_by['attacker']}"),
        head,
        section("How often", _shares(results)),
        section("What is left after each step", _funnel(results["funnel"])),
        section("Kinds of exploit", _kinds(results.get("taxonomy"), len(rows))),
        section(count, (_grid if images else _texts)(rows[:WORST], drawn))
        or section("Exploits", tag("p", "None.")),
        section(
            "Where it comes from",
            table(["what", "value"], [[name, _word(value)] for name, value in made_by.items()]),
        ),
    ]
    return document(f"rewardlab attack: {verdict['word']}", body)


def _shares(results: Mapping[str, Any]) -> str:
    head = ["", *results["measures"]]
    rows = [
        [SIDES[side], *(_share(measure[side]) for measure in results["measures"].values())]
        for side in SIDES
    ]
    caption = (
        f"Per cent of outputs with 95 % intervals over {results['prompts']} prompts. standard, strict: the reward is for the "
        f"output and the judge against it (best of {results['best_of']}). disagreeing: the reward is for it and the witness "
        "far less. Only what is above the floors is the attack's doing."
    )
    return table(head, rows, caption)


def _share(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value'] * 100:.1f}\n[{estimate['low'] * 100:.1f}, {estimate['high'] * 100:.1f}]"


def _funnel(funnel: Mapping[str, Any]) -> str:
    precision = funnel.get("precision") or {}
    rows = [
        [step, str(count), *([sig(precision[step])] if precision else [])]
        for step, count in funnel["counts"].items()
    ]
    head = ["step", "left", *(["judge agrees"] if precision else [])]
    return table(
        head, rows, "What would become training pairs: at most one a prompt, the reference chosen."
    )


def _kinds(taxonomy: Mapping[str, Any] | None, count: int) -> str:
    if not taxonomy:
        return ""
    rows = [
        [name, str(number), sig(taxonomy["shares"][name]), sig(taxonomy["reference_shares"][name])]
        for name, number in taxonomy["counts"].items()
    ]
    return table(
        ["label", "exploits", "share", "references"],
        rows,
        f"Labels of {count} exploits; one may have several.",
    )


def _texts(rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, Samples]) -> str:
    cells = [
        [
            str(row["prompt_id"]),
            *(_visible(row[name]) for name in ("prompt", "output", "reference")),
            _scores(row),
            ", ".join(row["labels"]) or "–",
        ]
        for row in rows
    ]
    head = [
        "prompt",
        "its words",
        "exploit",
        "the reference that the reward likes best",
        "scores, exploit | reference",
        "kind",
    ]
    return table(head, cells, kind="text")


def _visible(text: str) -> str:
    """Return the text with pictures of its control characters, line breaks excepted.

    Example:
        >>> _visible("a\\x08b\\n")
        'a␈b\\n'
    """
    return "".join(
        chr(0x2400 + ord(letter)) if ord(letter) < 32 and letter not in "\n\t" else letter
        for letter in text
    )


def _scores(row: Mapping[str, Any]) -> str:
    lines = [
        f"{name} {sig(score)} | {sig(row['reference_scores'][name])}"
        for name, score in row["scores"].items()
    ]
    return "\n".join([*lines, f"disagreement {sig(row['disagreement'])}"])


def _grid(rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, Samples]) -> str:
    if not rows:
        return ""
    parts = [
        Shown(
            label,
            colour,
            [row["prompt"] for row in rows],
            [_pixels(drawn[side], row[place]) for row in rows],
        )
        for label, colour, side, place in (
            ("exploits", "#c2410c", "attack", "row"),
            ("best-liked references", "#4a4f57", "references", "reference_row"),
        )
    ]
    lines = [[str(row["prompt_id"]), row["prompt"], _scores(row)] for row in rows]
    return figures([grids(parts, "exploits", 2, "In equal places: the same prompt.")]) + details(
        "Their scores",
        table(["prompt", "its words", "scores, exploit | reference"], lines, kind="text"),
    )


def _pixels(samples: Samples, row: int) -> Tensor:
    """Return an image, or a video's middle frame, as uint8 [C, H, W]."""
    image = samples.outputs[row]
    image = image[len(image) // 2] if image.dim() == 4 else image  # type: ignore[union-attr]
    return (image * 255).round().byte()  # type: ignore[union-attr]


def _word(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "–" if value is None else str(value)
