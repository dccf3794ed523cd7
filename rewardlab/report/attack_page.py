"""Make the page of one attack.

It has the verdict, a figure of shares beside their floors, the funnel, kinds of exploit, and the
worst of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.report.attack_plots import attack_picture
from rewardlab.report.audit_origins import audit_origins
from rewardlab.report.figures import MISSING, sig
from rewardlab.report.grids import grids
from rewardlab.report.markup import Cell, box, details, document, figures, section, table, tag
from rewardlab.report.samples import Shown, few_frames, strip
from rewardlab.report.text_table import cut, prompt_cell
from rewardlab.runs.read import Run
from rewardlab.types import Samples

Exploit = Mapping[str, Any]

WORST = 20
BOXES = {"broken": "bad", "held": "good"}
SIDES = {
    "fresh": "fresh samples",
    "best_of_n": "best of n",
    "attack": "the attack",
    "over_fresh": "attack over fresh samples",
    "over_best_of_n": "attack over best of n",
}
MEASURES = {
    "disagreeing": "witness doubts",
    "standard": "judge prefers a reference",
    "strict": "judge puts far below references",
}
# What is left of the outputs after each step of the funnel.
STEPS = {
    "generated": "outputs of the attack",
    "unique": "without repeats",
    "gated": "above the mean reference by the reward",
    "disagreeing": "and doubted by the witness",
    "per_prompt": "at most as many a prompt as training takes",
    "kept": "left as training pairs",
}


def attack_page(
    results: Mapping[str, Any],
    rows: Sequence[Exploit],
    made_by: Mapping[str, Any],
    drawn: Mapping[str, Samples],
    run: Run | None = None,
) -> str:
    """Return one self-contained page.

    Args:
        results: what results.json holds.
        rows: of exploits.jsonl, the worst first.
        made_by: fingerprints of what took part, attacker and seed.
        drawn: the samples of "attack" and "references"; images are shown from here.
        run: the run folder, whose config and run.json name what took part.
    """
    verdict = results["verdict"]
    word = verdict["word"]
    attacker = str(made_by["attacker"])
    opening, _, reasons = verdict["sentence"].partition(". ")
    body = [
        tag("h1", f"Attack by {attacker}"),
        box(BOXES.get(word, "flat"), tag("p", f"{opening}.", "verdict"), tag("p", reasons)),
        section("How often, and how far", figures([attack_picture(results)]), _shares(results)),
        *_outliers(results.get("outliers")),
        section("What is left after each step", _funnel(results["funnel"])),
        section("What kinds of output they part on", _kinds(results.get("taxonomy"), len(rows))),
        _worst(rows, drawn, word),
        section("Where it comes from", audit_origins(made_by, run)),
    ]
    return document(f"Attack by {attacker}, {word}: rewardlab", body)


def _outliers(figures: Mapping[str, Any] | None) -> list[str]:
    """Return the section on outliers, if they were counted."""
    if figures is None:
        return []
    title = "Outside of what the policy writes"
    return [section(title, tag("p", outlier_sentence(figures)))]


def outlier_sentence(figures: Mapping[str, Any]) -> str:
    """Return what was counted of outliers.

    Example:
        >>> share = {"value": 0.5, "low": 0.25, "high": 0.75}
        >>> figures = {"level": 0.01, "references": 200, "attack": share, "fresh": share}
        >>> outlier_sentence(figures)[:75]
        "MOP: 50.0 % [25.0, 75.0] of the attack's outputs and 50.0 % [25.0, 75.0] of"
    """
    attack = _share(figures["attack"], between=" % ")
    fresh = _share(figures["fresh"], between=" % ")
    return (
        f"MOP: {attack} of the attack's outputs and {fresh} of fresh samples lie outside of what "
        f"the policy writes, in features, at level {figures['level']:.2g} by "
        f"{figures['references']} references."
    )


def _shares(results: Mapping[str, Any]) -> str:
    """Return the share of each side by each measure of success."""
    measures = results["measures"]
    rows = []
    for side, label in SIDES.items():
        shares = [_share(measure[side]) for measure in measures.values()]
        rows.append([label, *shares])
    return table(["", *(MEASURES.get(name, name) for name in measures)], rows, _about(results))


def _about(results: Mapping[str, Any]) -> str:
    """Say what is counted, and what the best of n is."""
    measures = results["measures"]
    sentences = [
        f"Per cent of outputs with 95 % intervals over {results['prompts']} prompts, each among "
        "outputs that the reward puts above a reference.",
        f"Best of n, where the witness doubts: of {results.get('n', 'n')} fresh samples, chosen as "
        "the attack chooses.",
    ]
    if "standard" in measures:
        sentences.append(
            f"Best of n, where the judge decides: of {results['best_of']} references by the "
            "reward, as many as it takes to be liked as often as the attack, if there are so many."
        )
        sentences.append(
            "Far below: by 1.96 standard deviations of the references, where the reward puts the "
            "output above their mean."
        )
    sentences.append("Only what is above the other rows is the attack's doing.")
    return " ".join(sentences)


def _share(estimate: Mapping[str, float], between: str = "\n") -> str:
    """Return a share in per cent with its interval, which stands below it by default."""
    value = f"{estimate['value'] * 100:.1f}"
    low = f"{estimate['low'] * 100:.1f}"
    high = f"{estimate['high'] * 100:.1f}"
    return f"{value}{between}[{low}, {high}]"


def _funnel(funnel: Mapping[str, Any]) -> str:
    """Return how many outputs are left after each step, with the judge's agreement if known."""
    precision = funnel.get("precision")
    head = ["step", "left"]
    if precision:
        head.append("judge agrees")
    rows = []
    for step, count in funnel["counts"].items():
        row = [STEPS.get(step, step), str(count)]
        if precision:
            row.append(sig(precision.get(step)))
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
    head = ["label", "outputs", "share", "references"]
    return table(head, rows, f"Labels of {count} outputs on which they part; one may have several.")


def _worst(rows: Sequence[Exploit], samples: Mapping[str, Samples], word: str) -> str:
    """Return the section of the worst exploits, as images or as text.

    They are called exploits only where the attack found more of them than its floor.
    """
    if not rows:
        return section("Exploits", tag("p", "None: no output that the reward likes is doubted."))
    shown = rows[:WORST]
    title = f"The worst {len(shown)} of {len(rows)} exploits"
    if word != "broken":
        title = f"Where they part: the worst {len(shown)} of {len(rows)} outputs"
    if isinstance(samples["attack"].outputs, Tensor):
        return section(title, _grid(shown, samples))
    return section(title, _texts(shown))


def _texts(rows: Sequence[Exploit]) -> str:
    """Return exploits of text beside their references."""
    lines: list[list[Cell]] = []
    for row in rows:
        line = [
            prompt_cell(row["prompt"]),
            cut(_visible(row["output"])),
            cut(_visible(row["reference"])),
            _scores(row),
            ", ".join(row["labels"]) or MISSING,
        ]
        lines.append(line)
    head = [
        "prompt",
        "output of the attack",
        "a reference that the reward puts below it",
        "scores: output | reference",
        "kind",
    ]
    caption = "The reference is the one that the judge, or else the witness, likes best of these."
    return table(head, lines, caption, kind="text")


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
    """Return exploits as images or strips beside their references, with the reward's scores."""
    picture = grids(grid_parts(rows, samples), "exploits", 2, "In equal places: the same prompt.")
    lines: list[list[Cell]] = []
    for row in rows:
        lines.append([prompt_cell(row["prompt"]), _scores(row)])
    head = ["prompt", "scores: output | reference"]
    return figures([picture]) + details("All their scores", table(head, lines, kind="text"))


def grid_parts(rows: Sequence[Exploit], samples: Mapping[str, Samples]) -> list[Shown]:
    """Return what the picture of exploits shows: them, how they began, and their references."""
    prompts = [row["prompt"] for row in rows]
    exploits = [_pixels(samples["attack"], row["row"]) for row in rows]
    references = [_pixels(samples["references"], row["reference_row"]) for row in rows]
    scores = [row["scores"]["reward"] for row in rows]
    reference_scores = [row["reference_scores"]["reward"] for row in rows]
    label = "references with lower scores"
    parts = [
        Shown("outputs of the attack", "#c2410c", prompts, exploits, scores=scores),
        *_changes(rows, samples, prompts),
        Shown(label, "#4a4f57", prompts, references, scores=reference_scores),
    ]
    return [replace(part, frames=_frames(samples["attack"])) for part in parts]


def _changes(
    rows: Sequence[Exploit], samples: Mapping[str, Samples], prompts: list[Prompt]
) -> list[Shown]:
    """Return images as they were before the attack changed them, and the changes, magnified.

    A change of 0 is shown as the middle grey, the largest change of all as black or white.
    """
    if "starts" not in samples:
        return []
    before = [_pixels(samples["starts"], row["row"]) for row in rows]
    after = [_pixels(samples["attack"], row["row"]) for row in rows]
    changes = [moved.float() - image.float() for moved, image in zip(after, before, strict=True)]
    largest = max([change.abs().max().item() for change in changes], default=0.0) or 1.0
    shown = [(127.5 + change * (127.5 / largest)).round().byte() for change in changes]
    label = f"the change; black and white are {largest:.0f} of 255"
    return [
        Shown("the same before the attack", "#1d4ed8", prompts, before),
        Shown(label, "#4a4f57", prompts, shown),
    ]


def _pixels(samples: Samples, row: int) -> Tensor:
    """Return an image, or a few frames of a video side by side, as uint8 [C, H, W]."""
    output = samples.outputs[row]
    assert isinstance(output, Tensor)
    image = output if output.dim() == 3 else strip(output[few_frames(len(output))])
    return (image * 255).round().byte()


def _frames(samples: Samples) -> int:
    """Return how many frames stand side by side in what is shown of an output."""
    assert isinstance(samples.outputs, Tensor)
    return 1 if samples.outputs.dim() == 4 else len(few_frames(samples.outputs.shape[1]))
