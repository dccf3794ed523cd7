"""Make the table of samples of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rewardlab.report.figures import MISSING
from rewardlab.report.markup import table
from rewardlab.report.samples import Shown

TEXT_ROWS = 12
TEXT_LENGTH = 600


def text_table(parts: Sequence[Shown]) -> str:
    """Return samples of text beside each other, one prompt a row."""
    rows = []
    for prompt in _prompts(parts):
        outputs = [_cut(_output(part, prompt)) for part in parts]
        rows.append([_cut(prompt), *outputs])
    head = ["prompt", *(part.label for part in parts)]
    return table(head, rows, "One output of each prompt.", "text")


def _prompts(parts: Sequence[Shown]) -> list[str]:
    """Return the prompts to show; those that most parts answer come first."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(dict.fromkeys(part.prompts, 1))
    return sorted(counts, key=lambda prompt: -counts[prompt])[:TEXT_ROWS]


def _output(part: Shown, prompt: str) -> str:
    """Return a part's first output of a prompt, or a dash."""
    if prompt not in part.prompts:
        return MISSING
    return str(part.outputs[part.prompts.index(prompt)])


def _cut(text: str) -> str:
    """Return text that fits a cell."""
    breaks = text.count("\n")
    if breaks > 3 and len(text) < 40 * breaks:  # short lines would make the table long
        text = text.replace("\n", " ↵ ")
    if len(text) <= TEXT_LENGTH:
        return text
    return text[: TEXT_LENGTH - 1] + "…"
