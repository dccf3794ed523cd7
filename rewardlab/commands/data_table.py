"""What `rewardlab data check` prints: one screen of a file's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewardlab.report.figures import sig, with_interval

Figures = Mapping[str, Any]
_TRAP = (
    0.6  # from which share of longer, or of shorter, chosen answers on a reward may learn length
)
_EMPTY = ("prompt", "chosen", "rejected", "response")
_LONG = (
    "    a reward drops the beginning of {reward_cuts:,} prompts, refuses {reward_refuses:,}",
    "    a policy refuses all; truncate cuts {policy_cuts:,} and leaves out {policy_drops:,}",
)
_ROWS = {
    "duplicated": "stand earlier already",
    "identical": "have identical halves",
    "nearly_identical": "have halves equal but for spaces and case",
    "contradicting": "stand the other way round too",
    "tied": "are tied (label 0.5)",
    "turned": "are turned (label below 0.5)",
}


def as_table(figures: Figures) -> str:
    """Return the figures of a file as lines, and below them what may be mended.

    Example:
        >>> print(as_table({"file": "a", "kind": "videos", "files": 3}))
        a: 3 videos
    """
    lines = [
        _title(figures),
        *_reading(figures),
        *_prompts(figures),
        *_empty(figures),
        *_rows(figures),
        *_files(figures),
        *_longer(figures),
        *_marks(figures),
        *_split(figures),
        *_against(figures),
        *_lengths(figures),
        *_context(figures),
    ]
    for mend in _mends(figures):
        lines.append(f"  mend: {mend}")
    return "\n".join(lines)


def _title(figures: Figures) -> str:
    unit = next(name for name in ("pairs", "files", "rows") if name in figures)
    title = "{file}: {" + unit + ":,} {kind}"
    if "layouts" in figures:
        title += " in {rows:,} rows"
    return title.format_map(figures)


def _line(name: str, text: str) -> str:
    """Return a name at the left, and what is said of it."""
    return f"  {name:<14} {text}"


def _reading(figures: Figures) -> list[str]:
    """Return how the rows were read, and what was left out."""
    lines = []
    for name, layout in figures.get("layouts", {}).items():
        text = name + " ({rows:,} rows): {read}".format_map(layout)
        lines.append(_line("read as", text))
    for reason, unusable in figures.get("unusable_rows", {}).items():
        count = "{rows:,} ".format_map(unusable)
        place = " (the first: {first})".format_map(unusable)
        lines.append(_line("left out", count + reason + place))
    if figures.get("called_equal"):
        text = "{called_equal:,} pairs of answers that are called equal"
        lines.append(_line("left out", text.format_map(figures)))
    if figures.get("equal_scores"):
        text = "{equal_scores:,} pairs with one score for both halves"
        lines.append(_line("kept", text.format_map(figures)))
    return lines


def _prompts(figures: Figures) -> list[str]:
    if "prompts" not in figures:
        return []
    text = "{prompts:,} different"
    if "several" in figures:
        text += "; {several:,} stand several times, at most {most:,}"
    if figures.get("conversations"):
        text += "; {conversations:,} conversations, {with_system:,} with a system message"
    return [_line("prompts", text.format_map(figures))]


def _empty(figures: Figures) -> list[str]:
    parts = []
    for name in _EMPTY:
        count = figures.get(f"empty_{name}")
        if count is not None:
            parts.append(f"{name} {count:,}")
    return [_line("empty", ", ".join(parts))] if parts else []


def _rows(figures: Figures) -> list[str]:
    """Return how many rows a fit may stumble on; kinds of which there are none share a line."""
    lines = []
    absent = []
    for name, what in _ROWS.items():
        count = figures.get(name)
        if count:
            lines.append(_line("rows", f"{count:,} {what}"))
        elif count == 0:
            absent.append(what)
    if absent:
        lines.append(_line("none", "; ".join(absent)))
    return lines


def _files(figures: Figures) -> list[str]:
    """Return what is said of files of pictures or videos."""
    if "unusable" not in figures:
        return []
    lines = []
    if figures["sizes"]:
        others = "; {other_sizes:,} other sizes; shortest side {smallest}".format_map(figures)
        lines.append(_line("sizes", _named(figures["sizes"]) + others))
        lines.append(_line("types", _named(figures["types"])))
    lines.append(_line("unusable", "{unusable:,} files".format_map(figures)))
    for name, reason in figures["reasons"].items():
        lines.append(_line("", f"{name}: {reason}"))
    return lines


def _named(counts: Mapping[str, int]) -> str:
    """Return names with their counts."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _longer(figures: Figures) -> list[str]:
    longer = figures.get("longer")
    if longer is None:
        return []
    pairs = " of {count:,} pairs; always choosing the longer scores ".format_map(longer)
    accuracy = sig(longer["accuracy"])
    return [_line("longer chosen", with_interval(longer) + pairs + accuracy)]


def _marks(figures: Figures) -> list[str]:
    """Return in how many texts special tokens or marks of templates are spelled."""
    parts = []
    for part, marks in figures.get("marks", {}).items():
        text = f"in {marks['texts']:,} {part}"
        if marks["marks"]:
            text += f" ({_named(marks['marks'])})"
        parts.append(text)
    return [_line("special tokens", "; ".join(parts))] if parts else []


def _split(figures: Figures) -> list[str]:
    """Return what the parts of the split share."""
    if "split" not in figures:
        return []
    split = figures["split"]
    if split is None:
        return [_line("held out", "as many as there are: a fit refuses, with none to train on")]
    text = "{held_out:,} pairs, {train:,} to train on"
    if "pairs" in split:
        text += "; of those held out {pairs:,} share a prompt, {responses:,} a response"
    return [_line("held out", text.format_map(split))]


def _against(figures: Figures) -> list[str]:
    """Return what is shared with another file, or tells another folder apart."""
    against = figures.get("against")
    if against is None:
        return []
    if "report" in against:
        return [_line("against", against["file"]), str(against["report"])]
    noun = "pairs" if "layouts" in figures else "rows"
    text = f"{{file}}: {{pairs:,}} {noun} share a prompt with it ({{prompts:,}} prompts), "
    text += "{responses:,} a response"
    return [_line("against", text.format_map(against))]


def _lengths(figures: Figures) -> list[str]:
    """Return the quantiles of lengths."""
    lengths = figures.get("lengths")
    if not lengths:
        return []
    heads = list(next(iter(lengths.values())))
    unit = figures["unit"]
    lines = [f"  {unit:<14}{_cells(heads)}"]
    for part, numbers in lengths.items():
        name = "with prompt" if part == "row" else part
        numerals = [f"{numbers[head]:,}" for head in heads]
        lines.append(f"    {name:<12}{_cells(numerals)}")
    if unit == "characters":
        lines.append("  Give --tokenizer FOLDER for tokens, and what fits the context.")
    return lines


def _cells(texts: list[str]) -> str:
    return "".join(f"{text:>9}" for text in texts)


def _context(figures: Figures) -> list[str]:
    """Return what a model cannot read, and what does not fit its context."""
    lines = []
    unreadable = figures.get("unreadable", {"pairs": 0})
    if unreadable["pairs"]:
        lines.append("  {pairs:,} cannot be read: {first}".format_map(unreadable))
    context = figures.get("context")
    if context is None:
        return lines
    texts = ["  context {context:,}: {long:,} pairs do not fit"]
    if context["long"]:
        texts += _LONG
    return lines + [text.format_map(context) for text in texts]


def _mends(figures: Figures) -> list[str]:
    """Return what a reader may do about what was found."""
    mends = []
    if figures.get("duplicated") and "layouts" in figures:
        mends.append("Preferences(dedup=true) drops pairs that stand earlier already")
    if (figures.get("context") or {}).get("long"):
        mends.append("Preferences(long_rows=drop or truncate) goes on without what is refused")
    if figures.get("contradicting"):
        mends.append("give pairs that contradict each other a label between 0 and 1, or drop them")
    longer = figures.get("longer") or {"low": 0, "high": 1}
    if longer["low"] > _TRAP or longer["high"] < 1 - _TRAP:
        mends.append("a reward may learn length here: rewards.Debiased takes it out again")
    split = figures.get("split") or {}
    if split.get("pairs"):
        mends.append(
            "Preferences(held_out_by=prompts) holds out whole prompts with all their pairs"
        )
    against = figures.get("against") or {}
    if against.get("pairs"):
        mends.append(f"leave out what {against['file']} is to test, or its figures mean nothing")
    return mends
