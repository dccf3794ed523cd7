"""Draw what `rewardlab evaluate` measured: calibration, accuracy by length, named biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.report.picture import Picture, canvas, drawable, png_of, slug

Figures = Mapping[str, Any]

LINE = "#2f5d9b"
CHANCE = "#b8bcc2"
COLOURS = {
    "rewarded": "#c2410c",
    "not noticed": "#c2410c",
    "punished": "#b7791f",
    "lowered, as wanted": "#2e7d4f",
    "no effect seen": "#2e7d4f",
}


def calibration_picture(file: Figures) -> Picture:
    """Draw how often the answer with the higher score is right, by how sure the reward is."""
    bins = file["calibration"]["bins"]
    with canvas(4.6, 3.6) as figure:
        axes = figure.subplots()
        axes.plot([0.5, 1], [0.5, 1], color=CHANCE, linestyle="--", linewidth=1, label="calibrated")
        _points(axes, [row["confidence"] for row in bins], bins)
        axes.set_xlim(0.49, 1.01)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("σ(difference of scores)")
        axes.set_ylabel("right")
        axes.set_title("how sure, and how often right")
        axes.legend(loc="lower right", fontsize=8)
        png = png_of(figure)
    caption = "Bins of equally many pairs, with Wilson's 95 % intervals."
    alt = f"Share of right pairs by confidence, {file['title']}"
    return Picture(f"{slug(file['path'])}-calibration", png, alt, caption)


def length_picture(file: Figures) -> Picture:
    """Draw the accuracy by how long the right answer is beside the wrong one."""
    bins = file["length"]["bins"]
    rows = list(bins.values())
    with canvas(4.6, 3.6) as figure:
        axes = figure.subplots()
        axes.axhline(0.5, color=CHANCE, linestyle="--", linewidth=1)
        _points(axes, list(range(len(rows))), rows)
        labels = [f"{_wrapped(name)}\n(n {row['count']:,})" for name, row in bins.items()]
        axes.set_xticks(range(len(rows)), labels, fontsize=8)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("right")
        axes.set_title("by the length of the right answer")
        png = png_of(figure)
    caption = "In words, beside the wrong answer. A reward that likes length rises to the right."
    alt = f"Share of right pairs by length, {file['title']}"
    return Picture(f"{slug(file['path'])}-length", png, alt, caption)


def _points(axes: Any, across: Sequence[float], rows: Sequence[Figures]) -> None:
    """Draw shares with their intervals."""
    means = [row["mean"] for row in rows]
    below = [row["mean"] - row["low"] for row in rows]
    above = [row["high"] - row["mean"] for row in rows]
    axes.errorbar(
        across,
        means,
        [below, above],
        color=LINE,
        marker="o",
        markersize=4,
        linestyle="none",
        elinewidth=1,
        capsize=2,
    )


def _wrapped(name: str) -> str:
    """Return a label on lines of two words.

    Example:
        >>> _wrapped("about as long")
        'about as\\nlong'
    """
    words = name.split()
    lines = [" ".join(words[start : start + 2]) for start in range(0, len(words), 2)]
    return "\n".join(lines)


def bias_picture(biases: Figures) -> Picture | None:
    """Draw each edit's effect with its interval; None where no edit has one."""
    edits = {name: row for name, row in biases["edits"].items() if row["mean"] is not None}
    if not edits:
        return None
    with canvas(6.4, 0.6 + 0.42 * len(edits) + 0.6) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=CHANCE, linewidth=1)
        for place, row in enumerate(edits.values()):
            colour = COLOURS[row["verdict"]]
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
            axes.plot([row["mean"]], [place], color=colour, marker="o", markersize=5)
        axes.set_yticks(range(len(edits)), [drawable(name) for name in edits])
        axes.set_ylim(len(edits) - 0.5, -0.5)
        axes.set_xlabel("change of the score, in reference deviations")
        axes.set_title("what edits do that add no content")
        png = png_of(figure)
    caption = "Paired means with 95 % bootstrap intervals over prompts; 1 is what usually parts "
    caption += "two answers to one prompt."
    if "pictures" in biases:
        caption = "Paired means with 95 % bootstrap intervals over pictures; 1 is what usually "
        caption += "parts two pictures."
    return Picture("named-biases", png, "Effects of named edits", caption, width=620)
