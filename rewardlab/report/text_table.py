"""Make the table of samples of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from rewardlab.conversations import Conversation, Prompt
from rewardlab.report.figures import MISSING, sig
from rewardlab.report.markup import Cell, Html, table, tag
from rewardlab.report.samples import OF_TARGETS, Shown

TEXT_ROWS = 12
TEXT_LENGTH = 600
TEXT_LINES = 24
EMPTY = "(empty)"


def text_table(parts: Sequence[Shown]) -> str:
    """Return samples of text beside each other, one prompt a row."""
    rows: list[list[Cell]] = []
    for prompt in _prompts(parts):
        outputs = [_output(part, prompt) for part in parts]
        rows.append([prompt_cell(prompt), *outputs])
    head = ["prompt", *(part.label for part in parts)]
    caption = "One output of each prompt."
    if any(part.label == OF_TARGETS.label for part in parts):
        caption += " Targets: of preference data, the preferred answers that are held out."
    if any(part.scores for part in parts):
        caption += " The number above an output is its score by the reward."
    return table(head, rows, caption, "text")


def scored_texts(part: Shown) -> str:
    """Return samples of text below each other, each with its prompt and its score."""
    rows: list[list[Cell]] = []
    for prompt, output, score in zip(part.prompts, part.outputs, part.scores, strict=True):
        rows.append([prompt_cell(prompt), cut(str(output)) or EMPTY, sig(score)])
    rows = rows[:TEXT_ROWS]
    return table(["prompt", part.label, "score"], rows, kind="text")


def _prompts(parts: Sequence[Shown]) -> list[Prompt]:
    """Return the prompts to show; those that most parts answer come first."""
    counts: Counter[Prompt] = Counter()
    for part in parts:
        counts.update(dict.fromkeys(part.prompts, 1))
    return sorted(counts, key=lambda prompt: -counts[prompt])[:TEXT_ROWS]


def _output(part: Shown, prompt: Prompt) -> Cell:
    """Return a part's first output of a prompt with its score, or a dash."""
    if prompt not in part.prompts:
        return MISSING
    row = part.prompts.index(prompt)
    text = cut(str(part.outputs[row])) or EMPTY
    if not part.scores:
        return text
    return Html(tag("small", sig(part.scores[row])) + escape(text))


def prompt_cell(prompt: Prompt) -> Cell:
    """Return a prompt as a cell: a text, or the turns of a conversation below each other.

    Example:
        >>> from rewardlab.conversations import Message
        >>> prompt_cell(Conversation((Message("system", "Be <brief>."),)))
        Html(text='<div class="turn"><b>system</b>Be &lt;brief&gt;.</div>')
    """
    if not isinstance(prompt, Conversation):
        return cut(prompt)
    turns = ""
    for message in prompt.messages:
        content = tag("b", message.role) + escape(cut(message.content))
        turns += f'<div class="turn">{content}</div>'
    return Html(turns)


def cut(text: str) -> str:
    """Return text that fits a cell, and how much of it is left out."""
    breaks = text.count("\n")
    if breaks > 3 and len(text) < 40 * breaks:  # short lines would make the table long
        text = text.replace("\n", " ↵ ")
    lines = text.split("\n")
    shown = "\n".join(lines[:TEXT_LINES])[:TEXT_LENGTH]
    left_out = len(text) - len(shown)
    if not left_out:
        return text
    return f"{shown}… (and {left_out:,} more characters)"
