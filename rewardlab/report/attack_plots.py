"""Draw an attack beside what needs no attack: plain samples, references, and the best of n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rewardlab.report.figures import interval, mean, sig
from rewardlab.report.picture import Picture, canvas, png_of

SHARES = {"attack": "the attack", "best_of_n": "best of n", "fresh": "fresh samples"}
MEANS = {
    "attack": "the attack",
    "best_of_n": "best of n by the reward",
    "fresh": "fresh samples",
}
NOTHING = 1e-6  # what is smaller is zero with a rounding error
TITLES = {
    "disagreeing": "liked by the reward, doubted by the witness",
    "standard": "preferred by the reward, the judge prefers the reference",
    "strict": "liked by the reward, far below by the judge",
}
SIDE_COLOURS = {"attack": "#c2410c", "best_of_n": "#0072b2", "fresh": "#80868f"}
REWARD_COLOURS = {"reward": "#0072b2", "witness": "#e69f00", "judge": "#2e7d4f"}


class Bar(NamedTuple):
    """A bar with its interval.

    Attributes:
        label: what it is.
        figure: {"mean", "low", "high"}.
        colour: its colour.
    """

    label: str
    figure: Mapping[str, float]
    colour: str


def attack_picture(results: Mapping[str, Any]) -> Picture:
    """Draw the share of each side by each measure, and the mean scores of each side.

    Args:
        results: what results.json holds of an attack.
    """
    panels = {
        TITLES.get(name, name): _shares(results["measures"][name]) for name in _order(results)
    }
    score_bars = _means(results.get("means", {}))
    counts = [len(bars) for bars in panels.values()] + [len(score_bars)]
    rows = [count for count in counts if count]
    heights = [0.7 + 0.27 * count for count in rows]
    with canvas(7, 0.3 + sum(heights)) as figure:
        axes = figure.subplots(len(rows), squeeze=False, height_ratios=heights)[:, 0]
        for panel, (title, bars) in zip(axes, panels.items(), strict=False):
            _draw(panel, bars, title, "per cent of outputs")
            panel.set_xlim(0, 100)
        if score_bars:
            title = "mean scores; 0 is what the references have"
            _draw(axes[-1], score_bars, title, "standard deviations of the references")
        png = png_of(figure)
    alts = []
    for title, bars in [*panels.items(), ("mean scores", score_bars)]:
        texts = [f"{bar.label} {sig(bar.figure)}" for bar in bars]
        alts.append(f"{title}: {', '.join(texts)}")
    caption = (
        "Bars are means with 95 % intervals over prompts. An attack that found nothing of its own "
        "is no longer than best of n; one that fooled the reward has its score far to the right of "
        "the others' scores."
    )
    return Picture("attack", png, f"{'. '.join(alts)}.", caption, width=820)


def _order(results: Mapping[str, Any]) -> list[str]:
    """Return the measures, the judge's first."""
    return sorted(results["measures"], key=lambda name: name == "disagreeing")


def _shares(measure: Mapping[str, Any]) -> list[Bar]:
    """Return the bars of a measure, in per cent."""
    bars = []
    for side, label in SHARES.items():
        estimate = measure[side]
        figure = {
            "mean": 100 * estimate["value"],
            "low": 100 * estimate["low"],
            "high": 100 * estimate["high"],
        }
        bars.append(Bar(label, figure, SIDE_COLOURS[side]))
    return bars


def _means(means: Mapping[str, Any]) -> list[Bar]:
    """Return the bars of each side's mean scores: by reward, witness and judge."""
    bars = []
    for side, label in MEANS.items():
        for name, figure in means.get(side, {}).items():
            bars.append(Bar(f"{label}: {name}", figure, REWARD_COLOURS.get(name, "#80868f")))
    return bars


def _draw(axes: Any, bars: list[Bar], title: str, unit: str) -> None:
    """Draw bars below each other, the first at the top, each with its figure on the right."""
    for y, bar in enumerate(reversed(bars)):
        middle = mean(bar.figure) or 0.0
        if abs(middle) < NOTHING:
            middle = 0.0
        ends = interval(bar.figure)
        lengths = None
        if ends is not None:
            lengths = [[max(0.0, middle - ends.low)], [max(0.0, ends.high - middle)]]
        axes.barh(y, middle, height=0.62, color=bar.colour, alpha=0.75)
        axes.errorbar(middle, y, xerr=lengths, color="#1c1f23", linewidth=1.1, capsize=2)
        axes.text(
            1.01,
            y,
            sig(middle),
            transform=axes.get_yaxis_transform(),  # y as in the data, x as a share of the width
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)])
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(unit, fontsize=8)
    axes.axvline(0, color="#b8bcc2", linewidth=1)
