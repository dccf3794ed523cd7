"""The page of one over-optimisation curve: the picture, the figures, and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.report.figures import sig, with_interval
from rewardlab.report.markup import document, figures, section, table, tag
from rewardlab.report.picture import Picture, canvas, png_of

COLOURS = {"proxy": "#80868f", "gold": "#c2410c"}
KINDS = {"peaks": "bad", "falls": "bad", "rises": "good", "unclear": ""}


def curve_picture(results: Mapping[str, Any], fitted: Sequence[tuple[float, float]]) -> Picture:
    """Draw proxy and gold against √KL with their intervals, Gao's fit of gold, and its peak if that
    lies inside.

    Args:
        results: what results.json holds.
        fitted: points (√KL, gold) of the fit.
    """
    rows = results["curve"]
    fit = results["fit"]
    across = [row["distance"] for row in rows]
    with canvas(6, 3.8) as figure:
        axes = figure.subplots()
        for name, colour in COLOURS.items():
            axes.plot(
                across,
                [row[name] for row in rows],
                color=colour,
                marker="o",
                markersize=4,
                label=name,
            )
            if f"{name}_low" in rows[0]:
                axes.fill_between(across, *([row[f"{name}_{end}"] for row in rows] for end in ("low", "high")), color=colour,
                                  alpha=0.15, linewidth=0)  # fmt: skip
        axes.plot(
            *zip(*fitted, strict=True),
            color=COLOURS["gold"],
            linestyle="--",
            linewidth=1.2,
            label="fit of gold",
        )
        axes.axhline(0, color="#b8bcc2", linewidth=1, zorder=1)
        if results["verdict"]["word"] == "peaks":
            axes.axvline(fit["peak"], color=COLOURS["gold"], linestyle=":", linewidth=1)
            axes.axvspan(*fit["intervals"]["peak"], color=COLOURS["gold"], alpha=0.07, linewidth=0)
        for row in rows:
            axes.annotate(f"{row['n']}", (row["distance"], row["proxy"]), (0, 5), textcoords="offset points", fontsize=7,
                          ha="center", color="#4a4f57")  # fmt: skip
        axes.set(
            xlabel="√KL from the policy (KL in nats; small figures: n)",
            ylabel="over the start, standard deviations",
        )
        axes.set_title("best of n by the proxy")
        axes.legend(loc="best", fontsize=8)
        png = png_of(figure)
    return Picture(
        "curve", png, results["verdict"]["sentence"], "Bands are 95 % intervals over prompts."
    )


def curve_page(results: Mapping[str, Any], picture: Picture, made_by: Mapping[str, str]) -> str:
    """Return one self-contained page."""
    verdict = results["verdict"]
    fit = results["fit"]
    head = f'<div class="run {KINDS[verdict["word"]]}">{tag("p", verdict["sentence"], "verdict")}</div>'
    lines = [
        [
            str(row["n"]),
            sig(row["kl"]),
            sig(row["distance"]),
            *(with_interval(_interval(row, name)) for name in COLOURS),
        ]
        for row in results["curve"]
    ]
    caption = (
        f"Unbiased expectations over all choices of n of {results['samples']} samples of each of {results['prompts']} prompts. "
        "Scores are less their prompt's mean, in standard deviations within prompts."
    )
    ends = [
        [name, sig(fit[name]), " to ".join(map(sig, fit["intervals"][name]))]
        for name in ("alpha", "beta", "peak")
    ]
    ends += [["gold at the peak", sig(fit["peak_gold"]), ""], ["r²", sig(fit["r2"]), ""]]
    body = [
        tag("h1", "Over-optimisation by best of n"),
        head,
        section("Curve", figures([picture])),
        section("Figures", table(["n", "KL, nats", "√KL", *COLOURS], lines, caption)),
        section(
            "Fit",
            table(
                ["", "value", "95 % interval"],
                ends,
                "Gold = d(α − βd), d = √KL. A dash: there is no such point.",
            ),
        ),
        section(
            "Where it comes from",
            table(["what", "fingerprint"], [list(pair) for pair in made_by.items()]),
        ),
    ]
    return document("rewardlab curve", body)


def _interval(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"mean": row[name], "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}
