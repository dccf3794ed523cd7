"""The plots of a report: scores, judges, the reward against a judge, and guards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewardlab.report.figures import interval, mean, sig, with_interval
from rewardlab.report.picture import Picture, canvas, drawable, png_of, slug
from rewardlab.report.rows import BASE, TARGETS, Row, one_reward
from rewardlab.report.statements import judges, listed
from rewardlab.runs.read import at


def histogram(row: Row) -> Picture | None:
    """Draw how a round's reward scores the targets, and the outputs before and after, in the same
    bins.
    """
    import numpy as np

    step = row.step
    scores = (
        {side: values.numpy() for side, values in step.scores().items() if len(values)}
        if step and step.judged
        else {}
    )
    if (
        step is None
        or not scores
        or not all(np.isfinite(values).all() for values in scores.values())
    ):
        return None
    colours = {"targets": TARGETS, "before": BASE, "after": row.colour}
    bins = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins=24)
    with canvas(5, 2.9) as figure:
        axes = figure.subplots()
        for side, values in scores.items():
            auc = mean(at(step.separation, f"auc_{side}"))
            label = (
                "targets (real)"
                if side == "targets"
                else side + ("" if auc is None else f" (AUC {sig(auc)})")
            )
            axes.hist(
                values, bins, density=True, histtype="stepfilled", color=colours[side], alpha=0.28
            )
            axes.hist(
                values, bins, density=True, histtype="step", color=colours[side], linewidth=1.6
            )
            axes.plot([], [], color=colours[side], linewidth=5, alpha=0.7, label=label)
        axes.set(
            title=drawable(row.label),
            xlabel="score of the round's reward",
            yticks=[],
            xlim=(bins[0], bins[-1]),
        )
        axes.set_ylim(0, axes.get_ylim()[1] * 1.32)  # room for the legend
        axes.spines["left"].set_visible(False)
        axes.legend(loc="upper center", ncols=3, fontsize=8, handlelength=1, columnspacing=1.2)
        png = png_of(figure)
    means = ", ".join(f"{side} {sig(float(values.mean()))}" for side, values in scores.items())
    return Picture(
        f"scores-{slug(row.label)}",
        png,
        f"Histograms of the reward's scores in {row.label}; means: {means}.",
        f"{row.label}, mean scores: {means}."
        + " AUC is against the targets." * ("auc_after" in step.separation),
    )


def ladder(rows: Sequence[Row], name: str) -> Picture | None:
    """Draw one judge, or the distance, of each row as a point with its interval beside what real
    targets have.
    """
    shown = [
        row
        for row in rows
        if mean(at(row.judged, name)) is not None and (name != "distance" or row.kind != "targets")
    ]
    if not any(row.kind == "step" for row in shown):
        return None
    with canvas(5, 0.95 + 0.32 * len(shown)) as figure:
        axes = figure.subplots()
        for y, row in enumerate(reversed(shown)):
            _point(axes, row, at(row.judged, name), y=y)
            across = axes.get_yaxis_transform()  # y as in the data, x as a share of the width
            axes.text(
                1.02,
                y,
                sig(mean(at(row.judged, name))),
                transform=across,
                va="center",
                color=row.colour,
            )
        line = _targets_line(rows, name)
        if line is not None:
            axes.axvline(line, color=TARGETS, linestyle="--", linewidth=1.2, zorder=1)
        axes.set_yticks(range(len(shown)), [drawable(row.label) for row in reversed(shown)])
        axes.set(
            title=drawable(name if name != "distance" else "distance to targets (KID)"),
            ylim=(-0.6, len(shown) - 0.4),
        )
        png = png_of(figure)
    said = "; ".join(f"{row.label} {with_interval(at(row.judged, name))}" for row in shown)
    beside = f" Dashed line: {sig(line)}." if line is not None else ""
    dashed = (
        "the distance between two halves of the real targets"
        if name == "distance"
        else "the real targets' own value"
    )
    better = "left is better" if name == "distance" else "nearer to it is better"
    read = (
        f"The dashed line is {dashed}: {better}."
        if line is not None
        else "The targets' own value is not known."
    )
    return Picture(
        f"judge-{slug(name)}", png, f"{name}: {said}.{beside}", f"Bars are 95 % intervals. {read}"
    )


def _targets_line(rows: Sequence[Row], name: str) -> float | None:
    """Return the value of real targets, if the rows agree on it."""
    if name == "distance":
        values = {mean(at(row.judged, "real_distance")) for row in rows if row.kind != "targets"}
    else:
        values = {mean(at(row.judged, name)) for row in rows if row.kind == "targets"}
    return values.pop() if len(values) == 1 else None


def _point(axes: Any, row: Row, across: Any, *, y: Any) -> None:
    """Draw a mean with its interval: `across` along x, and along y too where `y` is a figure."""
    marker = {"targets": "*", "base": "s", "step": "o"}[row.kind]
    up = mean(y)
    bars = {"xerr": _bar(across)} | ({"yerr": _bar(y)} if not isinstance(y, int) else {})
    style = {
        "color": row.colour,
        "marker": marker,
        "markersize": 10 if marker == "*" else 6,
        "linewidth": 1.6,
        "zorder": 3,
    }
    axes.errorbar(mean(across), up, **bars, **style, label=drawable(row.label))


def _bar(figure: Any) -> list[list[float]] | None:
    ends = interval(figure)
    middle = mean(figure)
    return (
        None
        if ends is None or middle is None
        else [[max(0.0, middle - ends[0])], [max(0.0, ends[1] - middle)]]
    )


def plane(rows: Sequence[Row], name: str) -> Picture | None:
    """Draw what the reward says against what a judge says: each round an arrow from before to
    after.
    """
    shown = [
        row
        for row in rows
        if row.step and _has(row, "score_after") and mean(at(row.judged, name)) is not None
    ]
    if not shown:
        return None
    shared = one_reward(rows)
    with canvas(5, 3.6) as figure:
        axes = figure.subplots()
        for row in rows:
            score = at(
                shared, {"targets": "score_targets", "base": "score_before"}.get(row.kind, "")
            )
            judged = at(row.judged, name)
            own = (name, row.kind) == ("distance", "targets")  # targets against themselves
            if mean(score) is not None and mean(judged) is not None and not own:
                _point(axes, row, score, y=judged)
        for row in shown:
            _arrow(axes, row, name)
        line = _targets_line(rows, name)
        if line is not None:
            axes.axhline(line, color=TARGETS, linestyle="--", linewidth=1.2, zorder=1)
        axes.margins(0.1)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        axes.set_title(drawable(f"reward against {name}"))
        axes.set_xlabel("reward score" if shared else "score of each round's own reward")
        axes.set_ylabel(drawable(f"{name} (KID)" if name == "distance" else name))
        png = png_of(figure)
    said = "; ".join(
        f"{row.label} at reward {sig(_score(row))}, {name} {sig(mean(at(row.judged, name)))}"
        for row in shown
    )
    dashed = (
        "what two halves of the real targets have"
        if name == "distance"
        else "the real targets' value"
    )
    away = "up and away from the dashed line" if name == "distance" else "away from the dashed line"
    return Picture(
        f"plane-{slug(name)}",
        png,
        f"Reward against {name}: {said}.",
        f"Each round moves from its start to its point. Right is what the reward likes; the dashed line is {dashed}; right and "
        f"{away} is over-optimisation.",
    )


def _has(row: Row, name: str) -> bool:
    return row.step is not None and mean(at(row.step.separation, name)) is not None


def _score(row: Row) -> float | None:
    return mean(at(row.step.separation, "score_after")) if row.step else None


def _arrow(axes: Any, row: Row, name: str) -> None:
    step = row.step
    after = at(step.separation, "score_after"), at(row.judged, name)  # type: ignore[union-attr]
    before = at(step.separation, "score_before"), at(step.before, name)  # type: ignore[union-attr]
    if mean(before[0]) is not None and mean(before[1]) is not None:
        ends = {
            "xy": [mean(figure) for figure in after],
            "xytext": [mean(figure) for figure in before],
        }
        axes.annotate(
            "",
            **ends,
            arrowprops={"arrowstyle": "->", "color": row.colour, "alpha": 0.45, "shrinkB": 5},
        )
    _point(axes, row, after[0], y=after[1])


def guard_curves(rows: Sequence[Row]) -> Picture | None:
    """Draw what guards read during training: one panel a monitor, one line a round, over optimiser
    steps.
    """
    curves = [
        (row, row.step, row.step.curves())
        for row in rows
        if row.step and at(row.step.figures, "post_train")
    ]
    names = sorted(
        {name for *_, each in curves for name in each}, key=lambda name: (name != "score", name)
    )
    if not names:
        return None
    with canvas(5, 0.7 + 1.55 * len(names)) as figure:
        panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for name, axes in zip(names, panels, strict=True):
            for row, step, each in curves:
                if name in each:
                    axes.plot(
                        *zip(*each[name], strict=True),
                        color=row.colour,
                        marker=".",
                        linewidth=1.4,
                        label=drawable(row.label),
                    )
                    if step.guard_stop is not None:
                        axes.axvline(step.guard_stop, color=row.colour, linestyle=":", linewidth=1)
            axes.set_title(
                "reward score" if name == "score" else f"{name} (worse when higher)", fontsize=9
            )
        panels[-1].set_xlabel("optimiser step")
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
        )
        png = png_of(figure)
    ends = "; ".join(
        f"{row.label}: {name} {sig(points[0][1])} to {sig(points[-1][1])}"
        for row, _, each in curves
        for name, points in each.items()
    )
    stops = any(step.guard_stop is not None for _, step, _ in curves)
    return Picture(
        "guard",
        png,
        f"Guard readings over training steps of {listed([row.label for row, *_ in curves])}. {ends}.",
        "The reward going up while a monitor below it goes up too is the sign of over-optimisation"
        + ("; a dotted line is where the guard stopped." if stops else "."),
    )


def reading_curves(rows: Sequence[Row]) -> Picture | None:
    """Draw what judges said during training above what the reward said, each less its start: one
    line a round.
    """
    curves = [
        (row, row.step.curves("reading/"))
        for row in rows
        if row.step and at(row.step.figures, "post_train")
    ]
    curves = [(row, each) for row, each in curves if each]
    names = sorted(
        {name for _, each in curves for name in each},
        key=lambda name: (name == "kl", name == "reward", name),
    )
    if not names:
        return None
    with canvas(5.6, 0.7 + 1.9 * len(names)) as figure:
        panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for name, axes in zip(names, panels, strict=True):
            for row, each in curves:
                if name in each:
                    steps, values = zip(*each[name], strict=True)
                    above = [value - values[0] for value in values]
                    axes.plot(
                        steps,
                        above,
                        color=row.colour,
                        marker=".",
                        linewidth=1.4,
                        label=drawable(row.label),
                    )
            axes.axhline(0, color=BASE, linewidth=0.8, zorder=1)
            what = {
                "reward": "reward, each run's own, over its start",
                "kl": "KL from the start, nats an output",
            }
            axes.set_title(drawable(what.get(name, f"{name} (judge), over its start")), fontsize=9)
        panels[-1].set_xlabel("optimiser step")
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
        )
        png = png_of(figure)
    ends = "; ".join(
        f"{row.label}: {name} {sig(points[0][1])} to {sig(points[-1][1])}, highest {sig(max(value for _, value in points))}"
        for row, each in curves
        for name, points in each.items()
    )
    return Picture(
        "readings",
        png,
        f"Judges and reward over training steps of {listed([row.label for row, _ in curves])}. {ends}.",
        "On fixed prompts and noise that no training sees. The reward rising while a judge falls below its start is "
        "over-optimisation. Rewards of different runs have different scales.",
    )


def judge_pictures(rows: Sequence[Row]) -> tuple[list[Picture], list[Picture]]:
    """Return the ladders and the planes of each judge and of the distance."""
    names = [*judges(*(row.judged for row in rows)), "distance"]
    ladders, planes = ([make(rows, name) for name in names] for make in (ladder, plane))
    return [picture for picture in ladders if picture], [picture for picture in planes if picture]
