"""Draw what judges say: each judge alone, and the reward against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rewardlab.report.figures import interval, mean, sig, with_interval
from rewardlab.report.picture import Picture, canvas, drawable, legend_below, png_of, slug
from rewardlab.report.rows import TARGETS, Row, one_reward
from rewardlab.report.statements import judges
from rewardlab.runs.read import at

MARKERS = {"targets": "*", "base": "s", "step": "o"}
MARKER_SIZES = {"targets": 10, "base": 6, "step": 6}


class Wording(NamedTuple):
    """How plots speak of a judge, or of the distance.

    Attributes:
        title: the title of its ladder.
        axis: the label of its axis.
        dashed: what the dashed line of a ladder is.
        better: where figures are better.
        dashed_short: what the dashed line of a plane is.
        away: where over-optimised rounds are, beside being on the right.
    """

    title: str
    axis: str
    dashed: str
    better: str
    dashed_short: str
    away: str


class Point(NamedTuple):
    """A row as a point of a plot.

    Attributes:
        row: the row.
        x: a figure.
        y: a figure, or a number that has no interval.
    """

    row: Row
    x: Any
    y: Any


def judge_pictures(rows: Sequence[Row]) -> tuple[list[Picture], list[Picture]]:
    """Return the ladders and the planes of each judge and of the distance."""
    names = judges(*(row.judged for row in rows))
    names.append("distance")
    return _pictures(ladder, rows, names), _pictures(plane, rows, names)


def _pictures(
    draw: Callable[[Sequence[Row], str], Picture | None], rows: Sequence[Row], names: Sequence[str]
) -> list[Picture]:
    pictures = []
    for name in names:
        picture = draw(rows, name)
        if picture:
            pictures.append(picture)
    return pictures


def ladder(rows: Sequence[Row], name: str) -> Picture | None:
    """Draw one judge, or the distance, of each row: a point with its interval.

    A dashed line is what real targets have. There is no picture without rounds that have figures.
    """
    shown = [row for row in rows if _on_ladder(row, name)]
    if not any(row.kind == "step" for row in shown):
        return None
    line = _targets_line(rows, name)
    with canvas(5, 0.95 + 0.32 * len(shown)) as figure:
        axes = figure.subplots()
        _draw_ladder(axes, shown, name)
        if line is not None:
            axes.axvline(line, color=TARGETS, linestyle="--", linewidth=1.2, zorder=1)
        png = png_of(figure)
    alt = _ladder_alt(shown, name, line)
    return Picture(f"judge-{slug(name)}", png, alt, _ladder_caption(name, line))


def _on_ladder(row: Row, name: str) -> bool:
    """Return whether a row has the figure; the targets have no distance from themselves."""
    if name == "distance" and row.kind == "targets":
        return False
    return mean(at(row.judged, name)) is not None


def _draw_ladder(axes: Any, rows: Sequence[Row], name: str) -> None:
    """Draw a point a row, the first row at the top, with its figure on the right."""
    labels = []
    for y, row in enumerate(reversed(rows)):
        judged = at(row.judged, name)
        _draw_point(axes, Point(row, judged, y))
        axes.text(
            1.02,
            y,
            sig(judged),
            transform=axes.get_yaxis_transform(),  # y as in the data, x as a share of the width
            va="center",
            color=row.colour,
        )
        labels.append(drawable(row.label))
    axes.set_yticks(range(len(rows)), labels)
    axes.set_title(drawable(_wording(name).title))
    axes.set_ylim(-0.6, len(rows) - 0.4)


def _ladder_alt(rows: Sequence[Row], name: str, line: float | None) -> str:
    points = []
    for row in rows:
        judged = with_interval(at(row.judged, name))
        points.append(f"{row.label} {judged}")
    alt = f"{name}: {'; '.join(points)}."
    if line is not None:
        alt += f" Dashed line: {sig(line)}."
    return alt


def _ladder_caption(name: str, line: float | None) -> str:
    if line is None:
        return "Bars are 95 % intervals. The targets' own value is not known."
    wording = _wording(name)
    return f"Bars are 95 % intervals. The dashed line is {wording.dashed}: {wording.better}."


def _wording(name: str) -> Wording:
    if name == "distance":
        return Wording(
            title="distance to targets (KID)",
            axis="distance (KID)",
            dashed="the distance between two halves of the real targets",
            better="left is better",
            dashed_short="what two halves of the real targets have",
            away="up and away from the dashed line",
        )
    return Wording(
        title=name,
        axis=name,
        dashed="the real targets' own value",
        better="nearer to it is better",
        dashed_short="the real targets' value",
        away="away from the dashed line",
    )


def _targets_line(rows: Sequence[Row], name: str) -> float | None:
    """Return the value of real targets, if the rows agree on it.

    For the distance it is what each row keeps of two halves of the real targets.
    """
    values = set()
    for row in rows:
        if name == "distance" and row.kind != "targets":
            values.add(mean(at(row.judged, "real_distance")))
        if name != "distance" and row.kind == "targets":
            values.add(mean(at(row.judged, name)))
    return values.pop() if len(values) == 1 else None


def _draw_point(axes: Any, point: Point) -> None:
    """Draw a row's means with their intervals."""
    row = point.row
    axes.errorbar(
        mean(point.x),
        mean(point.y),
        xerr=_bar(point.x),
        yerr=_bar(point.y),
        color=row.colour,
        marker=MARKERS[row.kind],
        markersize=MARKER_SIZES[row.kind],
        linewidth=1.6,
        zorder=3,
        label=drawable(row.label),
    )


def _bar(figure: Any) -> list[list[float]] | None:
    """Return the lengths of a figure's error bar, down and up, or None without an interval."""
    middle = mean(figure)
    ends = interval(figure)
    if middle is None or ends is None:
        return None
    down = max(0.0, middle - ends.low)
    up = max(0.0, ends.high - middle)
    return [[down], [up]]


def plane(rows: Sequence[Row], name: str) -> Picture | None:
    """Draw what the reward says against what a judge says.

    Each round is an arrow from before to after. There is no picture without a round that has both
    figures.
    """
    points = _round_points(rows, name)
    if not points:
        return None
    line = _targets_line(rows, name)
    with canvas(5, 3.6) as figure:
        axes = figure.subplots()
        _draw_references(axes, rows, name)
        for point in points:
            _draw_arrow(axes, point, name)
            _draw_point(axes, point)
        if line is not None:
            axes.axhline(line, color=TARGETS, linestyle="--", linewidth=1.2, zorder=1)
        axes.margins(0.1)
        legend_below(figure)
        _label_plane(axes, rows, name)
        png = png_of(figure)
    alt = _plane_alt(points, name)
    return Picture(f"plane-{slug(name)}", png, alt, _plane_caption(name))


def _round_points(rows: Sequence[Row], name: str) -> list[Point]:
    """Return reward and judge after each round that has both."""
    points = []
    for row in rows:
        score = at(row.separation, "score_after")
        judged = at(row.judged, name)
        if mean(score) is not None and mean(judged) is not None:
            points.append(Point(row, score, judged))
    return points


def _draw_references(axes: Any, rows: Sequence[Row], name: str) -> None:
    """Draw targets and base, if all rounds have one reward."""
    separation = one_reward(rows)
    scores = {"targets": "score_targets", "base": "score_before"}
    for row in rows:
        score = at(separation, scores.get(row.kind, ""))
        if mean(score) is not None and _on_ladder(row, name):
            judged = at(row.judged, name)
            _draw_point(axes, Point(row, score, judged))


def _draw_arrow(axes: Any, point: Point, name: str) -> None:
    """Draw an arrow from where a round began, if that is known, to where it ended."""
    row = point.row
    assert row.step is not None  # only rounds have a score after
    score_before = mean(at(row.separation, "score_before"))
    judged_before = mean(at(row.step.before, name))
    if score_before is not None and judged_before is not None:
        axes.annotate(
            "",
            xy=[mean(point.x), mean(point.y)],
            xytext=[score_before, judged_before],
            arrowprops={"arrowstyle": "->", "color": row.colour, "alpha": 0.45, "shrinkB": 5},
        )


def _label_plane(axes: Any, rows: Sequence[Row], name: str) -> None:
    across = "reward score" if one_reward(rows) else "score of each round's own reward"
    axes.set_title(drawable(f"reward against {name}"))
    axes.set_xlabel(across)
    axes.set_ylabel(drawable(_wording(name).axis))


def _plane_alt(points: Sequence[Point], name: str) -> str:
    texts = []
    for point in points:
        score = sig(point.x)
        judged = sig(point.y)
        texts.append(f"{point.row.label} at reward {score}, {name} {judged}")
    return f"Reward against {name}: {'; '.join(texts)}."


def _plane_caption(name: str) -> str:
    wording = _wording(name)
    return (
        "Each round moves from its start to its point. Right is what the reward likes; "
        f"the dashed line is {wording.dashed_short}; right and {wording.away} is over-optimisation."
    )
