"""Draw a sweep's figure against each of its parameters."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rewardlab.report.figures import interval, mean
from rewardlab.report.picture import Picture, canvas, drawable, png_of, slug
from rewardlab.report.rows import BASE, RUNS

Data = Mapping[str, Any]

WIDE = 20.0  # a ratio of a parameter's values from which its axis may be logarithmic
UNEVEN = 4.0  # and of the largest to the median, which draws from a plain range do not have
MARGIN = 0.5  # of the seeds' range, above and below it
STEP = 0.02  # of an axis, between points of one value


class Axis(NamedTuple):
    """Where the values of a parameter stand.

    Attributes:
        places: of each point.
        ticks: names of values that are no numbers, at 0, 1 and so on.
        is_log: whether the axis is logarithmic.
    """

    places: list[float]
    ticks: list[str]
    is_log: bool


def best_setting(data: Data) -> Data | None:
    """Return the best setting of a summary, if there is one."""
    if data["best"] is None:
        return None
    best: Data = data["settings"][data["best"]]
    return best


def pictures(data: Data) -> list[Picture]:
    """Return a plot of each parameter that has several values, and of a search's order.

    Each shows the figure of every point.
    """
    drawn = []
    if data["is_search"] and any(row["values"] for row in data["settings"]):
        drawn.append(_order_picture(data))
    for key in data["keys"]:
        rows = []
        texts = set()
        for row in data["settings"]:
            if key in row["settings"] and _is_seen(row):
                rows.append(row)
                texts.add(row["settings"][key])
        if len(texts) > 1 and any(row["values"] for row in rows):
            drawn.append(_picture(key, rows, data))
    return drawn


def _is_seen(row: Data) -> bool:
    """Tell whether a point has a figure, or was pruned, or failed."""
    return bool(row["values"] or row["pruned"] or row["failed"])


def _picture(key: str, rows: Sequence[Data], data: Data) -> Picture:
    """Draw each point's mean with its interval against one parameter, and the best's in colour."""
    axis = axis_of([row["settings"][key] for row in rows])
    short = key.replace(".init_args", "").replace(".class_path", "")
    png = _points_png(rows, axis, _name(short), data)
    caption = (
        f"{short}: a circle and its 95 % interval a point, cut where it is longer than the "
        "plot, small dots its seeds, the best in colour. Points of one value stand side by side; "
        "the other parameters tell them apart."
        f"{_legend(rows)}"
    )
    alt = f"{data['figure']} against {short}, {len(rows)} points"
    return Picture(f"sweep-{slug(short)}", png, alt, caption)


def _order_picture(data: Data) -> Picture:
    """Draw each point of a search by its number, and the best mean so far as a line."""
    rows = [row for row in data["settings"] if _is_seen(row)]
    places = [float(number) for number, _ in enumerate(rows, 1)]
    png = _points_png(rows, Axis(places, [], is_log=False), "number of the point", data)
    caption = (
        "The points in the order in which the search chose them; the line is the best mean so far."
        f"{_legend(rows)}"
    )
    alt = f"{data['figure']} of {len(rows)} points in their order"
    return Picture("sweep-order", png, alt, caption)


def _points_png(rows: Sequence[Data], axis: Axis, name: str, data: Data) -> bytes:
    """Draw points at their places, and return the picture."""
    best = best_setting(data)
    with canvas(4.8, 3.2) as figure:
        axes = figure.subplots()
        places = side_by_side(axis)
        for row, place in zip(rows, places, strict=True):
            if row["values"]:
                _draw(axes, place, row, RUNS[1] if row is best else BASE)
            else:
                _mark(axes, place, is_pruned=bool(row["pruned"]))
        if name == "number of the point":
            _draw_best_so_far(axes, rows, data["better"])
        set_axis(axes, axis)
        axes.set_ylim(*heights_of(rows))
        axes.set_xlabel(name)
        axes.set_ylabel(drawable(data["figure"], 40))
        return png_of(figure)


def heights_of(rows: Sequence[Data]) -> tuple[float, float]:
    """Return the ends of the vertical axis: what the seeds need, and half as much on each side.

    The intervals of two or three seeds may be many times longer, and would hide all differences.

    Example:
        >>> heights_of([{"values": {0: 1.0, 1: 2.0}}, {"values": {}}])
        (0.5, 2.5)
    """
    values = []
    for row in rows:
        values += row["values"].values()
    span = max(values) - min(values) or abs(values[0]) or 1.0
    return min(values) - MARGIN * span, max(values) + MARGIN * span


def _name(short: str) -> str:
    """Return a parameter's name that fits below a plot: its end, if it is long.

    Example:
        >>> _name("rounds.post_train.trainer.max_steps")
        '… trainer.max_steps'
        >>> _name("model.lr")
        'model.lr'
    """
    parts = short.split(".")
    if len(parts) < 4:
        return drawable(short, 60)
    return drawable(f"… {parts[-2]}.{parts[-1]}", 60)


def _legend(rows: Sequence[Data]) -> str:
    """Return what the crosses on the lower edge are, if there are any."""
    without = [row for row in rows if not row["values"]]
    pruned = sum(1 for row in without if row["pruned"])
    failed = len(without) - pruned
    parts = []
    if pruned:
        parts.append(f"× {pruned} pruned")
    if failed:
        parts.append(f"+ {failed} failed")
    return f" On the lower edge: {', '.join(parts)}." if parts else ""


def _mark(axes: Any, place: float, *, is_pruned: bool) -> None:
    """Draw a point without a figure on the lower edge."""
    axes.plot(
        place,
        0.02,
        "x" if is_pruned else "+",
        color=BASE if is_pruned else RUNS[2],
        markersize=6,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )


def _draw_best_so_far(axes: Any, rows: Sequence[Data], better: str) -> None:
    """Draw the best mean of a search so far as a line of steps."""
    sign = 1 if better == "higher" else -1
    best = -math.inf
    numbers = []
    heights = []
    for number, row in enumerate(rows, 1):
        value = mean(row["figure"])
        if value is not None:
            best = max(best, sign * value)
        if math.isfinite(best):
            numbers.append(number)
            heights.append(sign * best)
    axes.step(numbers, heights, where="post", color=RUNS[0], linewidth=1.2)


def axis_of(texts: Sequence[str]) -> Axis:
    """Return where values stand: at their numbers, or one beside the other as named ticks.

    Example:
        >>> axis_of(["0.5", "2"]).places, axis_of(["b", "a", "b"])
        ([0.5, 2.0], Axis(places=[0.0, 1.0, 0.0], ticks=['b', 'a'], is_log=False))
    """
    try:
        places = [float(text) for text in texts]
    except ValueError:
        names = list(dict.fromkeys(texts))
        places = [float(names.index(text)) for text in texts]
        return Axis(places, names, is_log=False)
    least = min(places)
    is_wide = least > 0 and max(places) / least >= WIDE
    is_uneven = statistics.median(places) < max(places) / UNEVEN
    return Axis(places, [], is_log=is_wide and is_uneven)


def side_by_side(axis: Axis) -> list[float]:
    """Return places at which points of one value do not hide each other.

    Example:
        >>> side_by_side(Axis([0.0, 1.0, 1.0], [], is_log=False))
        [0.0, 0.99, 1.01]
    """
    places = axis.places
    if axis.is_log:
        places = [math.log(place) for place in places]
    step = STEP * (max(places) - min(places))
    shifted = []
    for number, place in enumerate(places):
        before = places[:number].count(place)
        middle = (places.count(place) - 1) / 2
        shifted.append(place + step * (before - middle))
    if axis.is_log:
        return [math.exp(place) for place in shifted]
    return shifted


def _draw(axes: Any, place: float, row: Data, colour: str) -> None:
    """Draw a point's seeds, its interval and its mean."""
    values = list(row["values"].values())
    axes.plot(
        [place] * len(values),
        values,
        ".",
        color=colour,
        markersize=4,
        alpha=0.6,
    )
    ends = interval(row["figure"])
    if ends is not None:
        axes.vlines(place, ends.low, ends.high, color=colour, linewidth=1.2)
    axes.plot(place, mean(row["figure"]), "o", color=colour, markersize=6)


def set_axis(axes: Any, axis: Axis) -> None:
    """Make an axis logarithmic, or give it the names of its values."""
    if axis.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # as mathematics is not set
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    if not axis.ticks:
        return
    labels = []
    for name in axis.ticks:
        last = name.rpartition(".")[2] or name
        labels.append(drawable(last, 18))
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
