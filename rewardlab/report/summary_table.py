"""Make the table of what the rewards and the judges say of targets, base and rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewardlab.report.figures import MISSING, sig, with_interval
from rewardlab.report.markup import table
from rewardlab.report.rows import Row, one_reward
from rewardlab.report.statements import judges
from rewardlab.runs.read import at

ABOUT_SCORE = "Reward score: of the round's own reward; higher is nearer to targets in its eyes."
ABOUT_SCALES = (
    "Rounds have rewards of different scales, so each cell gives the scores before and of the "
    "targets."
)
ABOUT_AUC = "AUC: how well that reward tells targets from outputs; 0.5 is not at all, 1 perfectly."
ABOUT_DISTANCE = (
    "Distance: 0 is equal; in the targets' row stands one half of the real against the other."
)
ABOUT_DIVERSITY = "Diversity: mean distance between two outputs, in the judge's features."


@dataclass
class Column:
    """A column of the table.

    Attributes:
        head: its heading.
        about: what the caption says of it.
        cells: one a row.
    """

    head: str
    about: str = ""
    cells: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Return whether no row has the figure."""
        return all(cell == MISSING for cell in self.cells)


def summary_table(rows: Sequence[Row]) -> str:
    """Return targets, base and rounds against reward, AUC, judges, distance and diversity.

    Columns that are empty are left out.
    """
    head = [""]
    lines = [[row.label] for row in rows]
    sentences = ["Means with 95 % intervals below."]
    for column in _columns(rows):
        if column.is_empty:
            continue
        head.append(column.head)
        for line, cell in zip(lines, column.cells, strict=True):
            line.append(cell)
        if column.about:
            sentences.append(column.about)
    sentences.append("No judge was ever trained on.")
    return table(head, lines, " ".join(sentences))


def _columns(rows: Sequence[Row]) -> list[Column]:
    shared = one_reward(rows)
    scores = Column("reward score", ABOUT_SCORE)
    if not shared:
        scores.about += f" {ABOUT_SCALES}"
    aucs = Column("AUC against targets", ABOUT_AUC)
    names = judges(*(row.judged for row in rows))
    judged = [Column(name) for name in names]
    distances = Column("distance to targets (KID)", ABOUT_DISTANCE)
    diversities = Column("diversity", ABOUT_DIVERSITY)
    for row in rows:
        scores.cells.append(_score(row, shared))
        aucs.cells.append(_auc(row, shared))
        for column in judged:
            column.cells.append(_cell(at(row.judged, column.head)))
        distances.cells.append(_distance(row))
        diversities.cells.append(sig(at(row.judged, "diversity")))
    return [scores, aucs, *judged, distances, diversities]


def _cell(figure: Any) -> str:
    """Return a figure with its interval below it."""
    return with_interval(figure).replace(" [", "\n[")


def _score(row: Row, shared: Mapping[str, Any]) -> str:
    """Return the reward's score of a row.

    Args:
        row: the row.
        shared: the figures of the one reward that all rounds have, empty if they have several.
    """
    if row.kind == "targets":
        return _cell(at(shared, "score_targets"))
    if row.kind == "base":
        return _cell(at(shared, "score_before"))
    score = _cell(at(row.separation, "score_after"))
    if shared or not row.separation:
        return score
    before = sig(at(row.separation, "score_before"))
    targets = sig(at(row.separation, "score_targets"))
    return f"{score} · before {before} · targets {targets}"


def _auc(row: Row, shared: Mapping[str, Any]) -> str:
    """Return the AUC of a row against the targets; the arguments are those of `_score`."""
    if row.kind == "targets":
        return MISSING
    if row.kind == "base":
        return _cell(at(shared, "auc_before"))
    auc = _cell(at(row.separation, "auc_after"))
    if shared or auc == MISSING:
        return auc
    before = sig(at(row.separation, "auc_before"))
    return f"{auc} · before {before}"


def _distance(row: Row) -> str:
    if row.kind != "targets":
        return _cell(at(row.judged, "distance"))
    halves = sig(at(row.judged, "real_distance"))
    if halves == MISSING:
        return MISSING
    return f"{halves}\nreal against real"
