"""Make the page of one over-optimisation curve: the picture, the figures, and their origins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.report.audit_origins import audit_origins
from rewardlab.report.figures import MISSING, sig, with_interval
from rewardlab.report.markup import box, document, figures, section, table, tag
from rewardlab.report.picture import Picture, canvas, png_of, split_points
from rewardlab.runs.read import Run

Measured = Sequence[Mapping[str, Any]]

COLOURS = {"proxy": "#80868f", "gold": "#c2410c"}
KINDS = {"peaks": "bad", "falls": "bad", "level": "bad", "rises": "good", "unclear": ""}
ABOUT = (
    "The proxy is the reward that chooses the best of n samples, gold the reward that judges what "
    "it chose. While gold rises with the proxy, choosing harder helps; where gold turns or stays "
    "level, the proxy's gain is not real."
)
ZERO = 1e-12  # in standard deviations; what is smaller is zero with a rounding error


def curve_picture(results: Mapping[str, Any], fitted: Sequence[tuple[float, float]]) -> Picture:
    """Draw proxy and gold against √KL with their intervals, and Gao's fit of gold.

    The peak of the fit is marked if it lies inside.

    Args:
        results: what results.json holds.
        fitted: points (√KL, gold) of the fit.
    """
    rows = results["curve"]
    with canvas(6, 3.8) as figure:
        axes = figure.subplots()
        for name in COLOURS:
            _draw_measured(axes, rows, name)
        _draw_fit(axes, fitted)
        if results["verdict"]["word"] == "peaks":
            _mark_peak(axes, results["fit"])
        _write_counts(axes, rows)
        axes.set_xlabel("√KL from the policy (KL in nats; small figures: n)")
        axes.set_ylabel("over the start, standard deviations")
        axes.set_title("best of n by the proxy")
        axes.legend(loc="best", fontsize=8)
        png = png_of(figure)
    caption = "Bands are 95 % intervals over prompts."
    return Picture("curve", png, results["verdict"]["sentence"], caption)


def _draw_measured(axes: Any, rows: Measured, name: str) -> None:
    """Draw what was measured of proxy or gold, with a band where there are intervals."""
    distances = _column(rows, "distance")
    axes.plot(
        distances,
        _column(rows, name),
        color=COLOURS[name],
        marker="o",
        markersize=4,
        label=name,
    )
    if f"{name}_low" in rows[0]:
        axes.fill_between(
            distances,
            _column(rows, f"{name}_low"),
            _column(rows, f"{name}_high"),
            color=COLOURS[name],
            alpha=0.15,
            linewidth=0,
        )


def _column(rows: Measured, name: str) -> list[Any]:
    return [row[name] for row in rows]


def _draw_fit(axes: Any, fitted: Sequence[tuple[float, float]]) -> None:
    distances, golds = split_points(fitted)
    axes.plot(
        distances,
        golds,
        color=COLOURS["gold"],
        linestyle="--",
        linewidth=1.2,
        label="fit of gold",
    )
    axes.axhline(0, color="#b8bcc2", linewidth=1, zorder=1)


def _mark_peak(axes: Any, fit: Mapping[str, Any]) -> None:
    """Mark the peak of the fit and its interval."""
    interval = fit["intervals"]["peak"]
    colour = COLOURS["gold"]
    axes.axvline(fit["peak"], color=colour, linestyle=":", linewidth=1)
    axes.axvspan(*interval, color=colour, alpha=0.07, linewidth=0)


def _write_counts(axes: Any, rows: Measured) -> None:
    """Write n above each point of the proxy."""
    for row in rows:
        axes.annotate(
            str(row["n"]),
            xy=(row["distance"], row["proxy"]),
            xytext=(0, 5),
            textcoords="offset points",
            fontsize=7,
            ha="center",
            color="#4a4f57",
        )


def curve_page(
    results: Mapping[str, Any],
    picture: Picture,
    made_by: Mapping[str, Any],
    run: Run | None = None,
) -> str:
    """Return one self-contained page.

    Args:
        results: what results.json holds.
        picture: of the curve.
        made_by: fingerprints of what took part.
        run: the run folder, whose config and run.json name what took part.
    """
    verdict = results["verdict"]
    kind = KINDS[verdict["word"]]
    body = [
        tag("h1", "Over-optimisation by best of n"),
        box(kind, tag("p", verdict["sentence"], "verdict")),
        tag("p", ABOUT, "soft"),
        section("Curve", figures([picture])),
        section("Figures", _figures_table(results)),
        *_n_section(results.get("n"), results.get("poisson")),
        section("Fit", _fit_table(results["fit"])),
        section("Where it comes from", audit_origins(made_by, run)),
    ]
    return document(f"Best of n, gold {verdict['word']}: rewardlab curve", body)


def _figures_table(results: Mapping[str, Any]) -> str:
    """Return proxy and gold at each n."""
    rows = []
    poisson = {row["n"]: row for row in results.get("poisson", {}).get("curve", [])}
    for row in results["curve"]:
        line = [
            str(row["n"]),
            sig(row["kl"]),
            sig(row["distance"]),
            with_interval(_figure(row, "proxy")),
            with_interval(_figure(row, "gold")),
        ]
        if poisson:
            line += _poisson_cells(poisson.get(row["n"]))
        rows.append(line)
    caption = (
        f"Unbiased expectations over all choices of n of {results['samples']} samples of each of "
        f"{results['prompts']} prompts. Scores are less their prompt's mean, in standard "
        "deviations within prompts."
    )
    head = ["n", "KL, nats", "√KL", "proxy", "gold"]
    if poisson:
        head += ["√KL, Poisson", "gold, Poisson"]
        caption += (
            " Poisson: the best of 1 + Poisson(n − 1) outputs, n in the mean, where the pool is "
            "large enough; compare at equal √KL."
        )
    return table(head, rows, caption)


def _poisson_cells(row: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of the best of Poisson at one n; dashes where the pool was too small."""
    if row is None:
        return [MISSING, MISSING]
    return [sig(row["distance"]), with_interval(_figure(row, "gold"))]


FAMILIAR = {
    "members": "members agree as on the policy's own outputs up to",
    "features": "the chosen lie among the policy's own outputs, in the proxy's features, up to",
}


def _n_section(figures: Mapping[str, Any] | None, poisson: Mapping[str, Any] | None) -> list[str]:
    """Return how large an n to take; nothing for runs of versions that did not say."""
    if figures is None:
        return []
    chosen = figures["chosen"]
    interval = f"{chosen['low']} to {chosen['high']}"
    rows = [["gold is highest at", str(chosen["n"]), interval]]
    if poisson is not None:
        drawn = poisson["chosen"]
        ends = f"{drawn['low']} to {drawn['high']}, of means up to {drawn['largest']}"
        rows.append(["of best of Poisson, at a mean of", str(drawn["n"]), ends])
    if "familiar" in figures:
        leaves = figures["familiar"]["leaves"]
        agreed = str(figures["familiar"]["n"])
        said = FAMILIAR[figures["familiar"].get("by", "members")]
        rows.append([said, agreed, ""])
        rows.append(["they no longer do at", MISSING if leaves is None else str(leaves), ""])
    caption = (
        f"Of n up to {chosen['largest']}. The interval is a bootstrap over prompts. What members "
        "or features say needs no gold: at most 5 % of what is chosen may lie beyond 95 % of the "
        "outputs."
    )
    return [section("How large an n", table(["", "n", "95 % interval"], rows, caption))]


def _fit_table(fit: Mapping[str, Any]) -> str:
    """Return the parameters of the fit with their intervals."""
    rows = []
    for name in ("alpha", "beta", "peak"):
        ends = map(_point, fit["intervals"][name])
        rows.append([name, _point(fit[name]), " to ".join(ends)])
    rows.append(["gold at the peak", _point(fit["peak_gold"]), ""])
    rows.append(["r²", sig(fit["r2"]), ""])
    caption = "Gold = d(α − βd), d = √KL. A dash: there is no such point, as gold never turns."
    return table(["", "value", "95 % interval"], rows, caption)


def _point(value: float | None) -> str:
    """Write a parameter of the fit; a dash where it is infinite or unknown."""
    if value is None or not math.isfinite(value):
        return MISSING
    return sig(_rounded(value))


def _figure(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return proxy or gold of a row as a figure with an interval; rounding errors are 0."""
    return {
        "mean": _rounded(row[name]),
        "low": _rounded(row.get(f"{name}_low")),
        "high": _rounded(row.get(f"{name}_high")),
    }


def _rounded(value: float | None) -> float | None:
    if value is not None and abs(value) < ZERO:
        return 0.0
    return value
