"""Tables of figures in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]


def markdown(rows: Mapping[str, Mapping[str, Figures | None]], titles: Mapping[str, str]) -> str:
    """Return a Markdown table: a row a name, a column a figure, with intervals where there are any.

    Args:
        rows: maps each row's name to its figures; a figure has "mean" and may have "low" and
            "high".
        titles: maps each figure's name to its column's title; a missing figure is a dash.

    Example:
        >>> print(markdown({"plain": {"a": {"mean": 1.0}}}, {"a": "score"}))
        | | score |
        |---|---|
        | plain | 1.00 |
    """
    lines = ["| | " + " | ".join(titles.values()) + " |", "|---" * (1 + len(titles)) + "|"]
    for name, figures in rows.items():
        cells = [_cell(figures.get(figure)) for figure in titles]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figure: Figures | None) -> str:
    if figure is None:
        return "-"
    if "low" not in figure:
        return f"{figure['mean']:.2f}"
    return f"{figure['mean']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"
