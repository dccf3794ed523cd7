"""The picture of the text half: what RLHF does to length, reward, judge and people's agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from real.hunger import BASE, REMEDIES
from real.remedies import PLAIN

Figures = dict[str, Any]
COLORS = dict(zip(REMEDIES, ("#c0392b", "#2e6da4", "#3c8d40", "#8e5ea2"), strict=True))
GREY = "#777777"


def draw(path: Path, content: Mapping[str, Any], people: Mapping[str, Figures | None]) -> None:
    """Write the picture: two panels over the steps of RLHF, and two of its end.

    Args:
        path: file to write.
        content: what `run_ways` returned.
        people: how often people agree with the reward of each remedy; empty without people.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4 if people else 3, figsize=(12.5, 3.3), layout="constrained")
    curves = content["curves"]
    _lines(axes[0], curves, "words", "words a text")
    _lines(axes[1], curves, "plain", "plain reward")
    _bars(axes[2], judged(content["figures"]), "nats a token, by SmolLM2\n(the judge; after RLHF)")
    if people:
        agreement = {remedy: people[remedy] for remedy in REMEDIES}
        _bars(axes[3], agreement, "people agree with the reward\n(PAR ranks as plain does)")
        axes[3].axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def judged(figures: Mapping[str, Any]) -> Figures:
    """Return the judge's figures of the policy as it was, and after RLHF with each remedy."""
    rows = {BASE: figures[BASE]["judge"]}
    for remedy in REMEDIES:
        rows[remedy] = figures[f"RLHF, {remedy}"]["judge"]
    return rows


def _lines(axis: Any, curves: Mapping[str, Any], name: str, title: str) -> None:
    for remedy, curve in curves.items():
        axis.plot(curve["step"], curve[name], color=COLORS[remedy], label=f"RLHF, {remedy}")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("steps of RLHF")
    axis.spines[["top", "right"]].set_visible(False)


def _bars(axis: Any, figures: Mapping[str, Figures | None], title: str) -> None:
    """Draw a dot with its interval for each name, the first on top."""
    place = 0
    for name, figure in figures.items():
        if figure is not None:
            ends = [figure["low"], figure["high"]]
            axis.plot(ends, [place, place], color=COLORS.get(name, GREY))
            axis.plot(figure["mean"], place, "o", color=COLORS.get(name, GREY))
        place += 1
    axis.set_yticks(range(place), _short(list(figures)), fontsize=9)
    axis.set_ylim(place - 0.4, -0.6)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _short(names: Sequence[str]) -> list[str]:
    titles = {BASE: "before RLHF", PLAIN: "plain"}
    return [titles.get(name, name).replace(" ", "\n", 1) for name in names]
