"""The funnel of an attack: how many samples each step of the filter left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Funnel:
    """How many samples of an attack were left after each step of the filter.

    Attributes:
        counts: of "generated", "unique" (no two alike, none a reference), "gated" (above the
            references' mean), "disagreeing", "per_prompt" (at most q a prompt) and "kept" (the
            cap).
        precision: the share of samples whose chosen side the judge prefers to them, a tie counting
            one half, at each step; None for a step that left none. None as a whole without a judge.
        unscored: how many of those generated target or witness did not score; none of them is kept.

    Example:
        >>> print(Funnel({"generated": 8, "kept": 2}, {"generated": 0.5, "kept": 1.0}))
        step         left  share  precision
        generated       8  1.000      0.500
        kept            2  0.250      1.000
    """

    counts: Mapping[str, int]
    precision: Mapping[str, float | None] | None = None
    unscored: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json."""
        content: dict[str, Any] = {"counts": dict(self.counts)}
        if self.precision is not None:
            content["precision"] = dict(self.precision)
        if self.unscored:
            content["unscored"] = self.unscored
        return content

    def __str__(self) -> str:
        start = max(next(iter(self.counts.values())), 1)
        header = f"{'step':12}{'left':>5}  share"
        if self.precision is not None:
            header += "  precision"
        lines = [header]
        for step, count in self.counts.items():
            line = f"{step:12}{count:5}  {count / start:.3f}"
            if self.precision is not None:
                line += f"{_figure(self.precision[step]):>11}"
            lines.append(line)
        if self.unscored:
            lines.append(f"not scored  {self.unscored:5}")
        return "\n".join(lines)


def _figure(share: float | None) -> str:
    return "-" if share is None else format(share, ".3f")
