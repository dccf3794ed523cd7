"""Make the page of a sweep: the best point with its command, all points, and a plot of each key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.report.figures import MISSING, interval, mean, sig, with_interval
from rewardlab.report.markup import box, details, document, figures, section, table, tag
from rewardlab.report.picture import Picture, canvas, drawable, png_of, slug
from rewardlab.report.rows import BASE, RUNS

Data = Mapping[str, Any]

WIDE = 20.0  # a ratio of a parameter's values from which its axis is logarithmic
STEP = 0.02  # of an axis, between points of one value
SELECTION = (
    "The best of several noisy means looks better than it is. Run the best point with seeds that "
    "were not in the sweep before you quote its figure."
)


def sweep_page(name: str, data: Data) -> str:
    """Return one self-contained page.

    Args:
        name: of the sweep.
        data: the summary as plain data: figure, better, keys, seeds, settings, best, level,
            troubles.
    """
    body = [
        tag("h1", f"Sweep {name}"),
        *_lead(data),
        section("Each parameter", figures(pictures(data))),
        section("All points", _settings_table(data)),
        section("Not finished", _troubles_table(data["troubles"])),
        section("Commands", details("The command of every point", _commands(data["settings"]))),
    ]
    return document(f"{name}: rewardlab sweep", body)


def _lead(data: Data) -> list[str]:
    """Return the best point, how sure that is, and its command."""
    best = _best(data)
    if best is None:
        sentence = f"No finished run has a finite {data['figure']}, so nothing is compared."
        return [box("", tag("p", sentence, "verdict"))]
    figure = f"{data['figure']} {with_interval(best['figure'])}"
    sentence = f"Best, {data['better']} being better: {best['label']}, {figure}."
    lines = [tag("p", sentence, "verdict"), tag("p", _level(data))]
    again = "Its first seed by hand; for another one change `--experiment.seed`:"
    return [
        box("good", *lines),
        tag("p", SELECTION, "soft"),
        tag("p", again),
        tag("pre", best["command"]),
    ]


def _level(data: Data) -> str:
    """Return how many points the best is not told apart from."""
    count = len(data["level"])
    others = sum(1 for setting in data["settings"] if setting["values"]) - 1
    if not others:
        return "No other point has the figure."
    if len(data["seeds"]) < 2:
        return "With one seed, no point is told apart from another: give several."
    seeds = f"{len(data['seeds'])} seeds"
    if not count:
        return f"All {others} other points are worse, by more than {seeds} differ."
    return (
        f"Of {others} other points, {count} are not told apart from it: the 95 % interval of "
        f"the difference, paired over {seeds}, has 0 in it."
    )


def _settings_table(data: Data) -> str:
    """Return all points, the best mean first, those without a figure last."""
    sign = -1 if data["better"] == "higher" else 1
    settings = sorted(data["settings"], key=lambda one: _order(one, sign))
    rows = [_settings_row(setting, data) for setting in settings]
    of_seeds = [f"seed {seed}" for seed in data["seeds"]]
    caption = (
        f"{data['figure']}: mean and Student's 95 % interval over seeds, which few seeds make "
        "wide, then each seed."
    )
    return table(["point", "mean", *of_seeds, "finished"], rows, caption)


def _settings_row(setting: Data, data: Data) -> list[str]:
    label = setting["label"]
    if setting is _best(data):
        label += " (best)"
    values = setting["values"]
    of_seeds = [sig(values.get(seed)) for seed in data["seeds"]]
    count = f"{setting['finished']} of {setting['seeds']}"
    return [label, with_interval(setting["figure"]), *of_seeds, count]


def _best(data: Data) -> Data | None:
    """Return the best setting, if there is one."""
    if data["best"] is None:
        return None
    best: Data = data["settings"][data["best"]]
    return best


def _order(setting: Data, sign: int) -> float:
    value = mean(setting["figure"])
    return float("inf") if value is None else sign * value


def _troubles_table(troubles: Sequence[Data]) -> str:
    rows = []
    for trouble in troubles:
        row = [trouble["label"], trouble["status"]]
        row.append(str(trouble["tries"]))
        row.append(trouble["reason"] or MISSING)
        row.append(trouble["log"])
        rows.append(row)
    return table(["run", "status", "tries", "why", "log"], rows, kind="facts")


def _commands(settings: Sequence[Data]) -> str:
    lines = []
    for setting in settings:
        lines.append(f"# {setting['label']}")
        lines.append(setting["command"])
    return tag("pre", "\n".join(lines))


def pictures(data: Data) -> list[Picture]:
    """Return a plot of each parameter that has several values against the figure."""
    drawn = []
    for key in data["keys"]:
        rows = []
        texts = set()
        for row in data["settings"]:
            if row["values"] and key in row["settings"]:
                rows.append(row)
                texts.add(row["settings"][key])
        if len(texts) > 1:
            drawn.append(_picture(key, rows, data))
    return drawn


def _picture(key: str, rows: Sequence[Data], data: Data) -> Picture:
    """Draw each point's mean with its interval against one parameter, and the best's in colour."""
    places, ticks = _places([row["settings"][key] for row in rows])
    is_log = not ticks and min(places) > 0 and max(places) / min(places) >= WIDE
    best = _best(data)
    short = ".".join(part for part in key.split(".") if part != "init_args")
    with canvas(4.8, 3.2) as figure:
        axes = figure.subplots()
        for row, place in zip(rows, _side_by_side(places, is_log), strict=True):
            colour = RUNS[1] if row is best else BASE
            _draw(axes, place, row, colour)
        _set_axis(axes, ticks, is_log)
        axes.set_xlabel(drawable(short, 60))
        axes.set_ylabel(drawable(data["figure"]))
        png = png_of(figure)
    caption = (
        f"{short}: a circle and its 95 % interval a point, small dots its seeds, the best in "
        "colour. Points of one value stand side by side; the other parameters tell them apart."
    )
    alt = f"{data['figure']} against {short}, {len(rows)} points"
    return Picture(f"sweep-{slug(short)}", png, alt, caption)


def _places(texts: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return where values stand: at their numbers, or one beside the other as named ticks.

    Example:
        >>> _places(["0.5", "2"]), _places(["b", "a", "b"])
        (([0.5, 2.0], []), ([0.0, 1.0, 0.0], ['b', 'a']))
    """
    try:
        return [float(text) for text in texts], []
    except ValueError:
        names = list(dict.fromkeys(texts))
        return [float(names.index(text)) for text in texts], names


def _draw(axes: Any, place: float, row: Data, colour: str) -> None:
    values = list(row["values"].values())
    axes.plot([place] * len(values), values, ".", color=colour, markersize=4, alpha=0.6)
    ends = interval(row["figure"])
    if ends is not None:
        axes.vlines(place, ends.low, ends.high, color=colour, linewidth=1.2)
    axes.plot([place], [mean(row["figure"])], "o", color=colour, markersize=6)


def _side_by_side(places: Sequence[float], is_log: bool) -> list[float]:
    """Return places at which points of one value do not hide each other.

    Example:
        >>> _side_by_side([0.0, 1.0, 1.0], is_log=False)
        [0.0, 0.99, 1.01]
    """
    widths = [math.log(place) for place in places] if is_log else places
    step = STEP * (max(widths) - min(widths))
    shifted = []
    for number, (place, width) in enumerate(zip(places, widths, strict=True)):
        before = places[:number].count(place)
        shift = step * (before - (places.count(place) - 1) / 2)
        shifted.append(math.exp(width + shift) if is_log else place + shift)
    return shifted


def _set_axis(axes: Any, ticks: Sequence[str], is_log: bool) -> None:
    if is_log:
        axes.set_xscale("log")
    if ticks:
        labels = [drawable(name.rpartition(".")[2] or name, 18) for name in ticks]
        axes.set_xticks(range(len(ticks)), labels)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
