"""Draw how a round's reward scores targets and outputs."""

from __future__ import annotations

from typing import Any

from rewardlab.report.figures import mean, sig
from rewardlab.report.picture import Picture, canvas, drawable, png_of, slug
from rewardlab.report.rows import BASE, TARGETS, Row
from rewardlab.runs.read import at


def histogram(row: Row) -> Picture | None:
    """Draw the scores of the targets and of the outputs before and after, in the same bins."""
    scores = _scores(row)
    if not scores:
        return None
    with canvas(5, 2.9) as figure:
        _draw(figure.subplots(), row, scores)
        png = png_of(figure)
    means = _means(scores)
    alt = f"Histograms of the reward's scores in {row.label}; means: {means}."
    caption = f"{row.label}, mean scores: {means}."
    if "auc_after" in row.separation:
        caption += " AUC is against the targets."
    return Picture(f"scores-{slug(row.label)}", png, alt, caption)


def _means(scores: dict[str, Any]) -> str:
    texts = []
    for side, values in scores.items():
        mean_score = sig(float(values.mean()))
        texts.append(f"{side} {mean_score}")
    return ", ".join(texts)


def _scores(row: Row) -> dict[str, Any]:
    """Return the scores of each side as arrays; nothing if there are none or one is not finite."""
    import numpy as np

    if row.step is None or not row.step.changed_policy:
        return {}
    scores = {}
    for side, tensor in row.step.scores().items():
        values = tensor.numpy()
        if not np.isfinite(values).all():
            return {}
        if len(values):
            scores[side] = values
    return scores


def _draw(axes: Any, row: Row, scores: dict[str, Any]) -> None:
    import numpy as np

    colours = {"targets": TARGETS, "before": BASE, "after": row.colour}
    bins = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins=24)
    for side, values in scores.items():
        colour = colours[side]
        _draw_hill(axes, values, bins, colour)
        label = _legend_label(row, side)
        axes.plot([], [], color=colour, linewidth=5, alpha=0.7, label=label)
    axes.set_title(drawable(row.label))
    axes.set_xlabel("score of the round's reward")
    axes.set_yticks([])
    axes.set_xlim(bins[0], bins[-1])
    _, top = axes.get_ylim()
    axes.set_ylim(0, top * 1.32)  # room for the legend
    axes.spines["left"].set_visible(False)
    axes.legend(
        loc="upper center",
        ncols=3,
        fontsize=8,
        handlelength=1,
        columnspacing=1.2,
    )


def _draw_hill(axes: Any, values: Any, bins: Any, colour: str) -> None:
    """Draw a histogram as a filled hill with an edge."""
    axes.hist(
        values,
        bins,
        density=True,
        histtype="stepfilled",
        color=colour,
        alpha=0.28,
    )
    axes.hist(
        values,
        bins,
        density=True,
        histtype="step",
        color=colour,
        linewidth=1.6,
    )


def _legend_label(row: Row, side: str) -> str:
    if side == "targets":
        return "targets (real)"
    auc = mean(at(row.separation, f"auc_{side}"))
    if auc is None:
        return side
    return f"{side} (AUC {sig(auc)})"
