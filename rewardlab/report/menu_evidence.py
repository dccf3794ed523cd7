"""What the menu's study measured of a remedy: how long gold stood, beside training without it.

The figures are those of docs/studies/menu.md; `tests/report/test_menu_evidence.py` computes them
anew from the study's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Evidence(NamedTuple):
    """What an arm of the menu's study did, against plain training of the same seeds.

    Attributes:
        world: of the study.
        arm: name of the arm in the study's tables.
        seeds: number of runs.
        falls: runs in which gold fell below its start.
        ratio: mean number of steps before the fall over plain training's, where a run that did not
            fall counts to its end.
        low: lower end of the ratio's 95 % interval over seeds.
        high: upper end.
    """

    world: str
    arm: str
    seeds: int
    falls: int
    ratio: float
    low: float
    high: float

    @property
    def effect(self) -> int:
        """1 if gold stood longer than in plain training, -1 if shorter, 0 if undecided."""
        if self.low > 1:
            return 1
        return -1 if self.high < 1 else 0

    def sentence(self) -> str:
        """Return what is printed under an advice."""
        outcome = {1: "it helped", 0: "undecided", -1: "it hurt"}[self.effect]
        return (
            f"on the {self.world} ({self.arm}, {self.seeds} seeds) gold fell in {self.falls} runs "
            f"and stood {self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}] times as long as in "
            f"plain training: {outcome} (docs/studies/menu.md)"
        )


TOPICS = "help topics"
DIGITS = "digits"
HOLD = Evidence(TOPICS, "kl0.25", 10, 0, 2.48, 1.50, 5.00)
PAR = Evidence(TOPICS, "par", 10, 9, 0.63, 0.33, 1.13)
EVIDENCE: Mapping[str, Evidence] = {
    "kl_weight=": HOLD,
    "/par.yaml": PAR,
    "shaping.par=": PAR,
    "/soft_minimum.yaml": Evidence(TOPICS, "soft_minimum", 10, 10, 0.58, 0.45, 0.92),
    "/length_calibration.yaml": Evidence(TOPICS, "length_calibration", 5, 4, 0.62, 0.20, 1.02),
    "/bottleneck.yaml": Evidence(TOPICS, "bottleneck", 5, 5, 0.35, 0.18, 1.12),
    "/independent_members.yaml": Evidence(TOPICS, "independent_members", 5, 5, 0.32, 0.18, 0.86),
    "/diversity.yaml": Evidence(TOPICS, "diversity", 5, 5, 0.60, 0.52, 0.96),
    "/topics_novelty.yaml": Evidence(TOPICS, "ibl", 5, 1, 1.63, 0.61, 6.05),
    "norm_guard=": Evidence(DIGITS, "dpo-hinge", 5, 0, 1.76, 1.58, 2.00),
}
"""By a part of the flag that lays the remedy over a run."""


def evidence_of(lay_over: Sequence[str]) -> Evidence | None:
    """Return what was measured of the first of the flags of which something was.

    Example:
        >>> evidence_of(["--config configs/menu/par.yaml"]).falls
        9
        >>> evidence_of(["--config configs/menu/chi_po.yaml"]) is None
        True
    """
    for flag in lay_over:
        for part, evidence in EVIDENCE.items():
            if part in flag:
                return evidence
    return None
