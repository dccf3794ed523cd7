"""Make the page of a sweep: the best point with its command, all points, and a plot of each key."""

from __future__ import annotations

from collections.abc import Sequence

from rewardlab.report.figures import MISSING, mean, sig, with_interval
from rewardlab.report.markup import box, details, document, figures, section, table, tag
from rewardlab.report.sweep_plots import Data, best_setting, pictures

SELECTION = (
    "The best of several noisy means looks better than it is. Run the best point with seeds that "
    "were not in the sweep before you quote its figure."
)


def sweep_page(name: str, data: Data) -> str:
    """Return one self-contained page.

    Args:
        name: of the sweep.
        data: the summary as plain data: figure, better, keys, seeds, settings, best, level,
            troubles, is_search.
    """
    body = [
        tag("h1", f"Sweep {name}"),
        *_lead(data),
        section("Each parameter", figures(pictures(data))),
        section("All points", _settings_table(data)),
        section("Pruned, failed and waiting", _troubles_table(data["troubles"])),
        section("Commands", details("The command of every point", _commands(data["settings"]))),
    ]
    return document(f"{name}: rewardlab sweep", body)


def _lead(data: Data) -> list[str]:
    """Return the best point, how sure that is, and its command."""
    best = best_setting(data)
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
    if setting is best_setting(data):
        label += " (best)"
    values = setting["values"]
    of_seeds = [sig(values.get(seed)) for seed in data["seeds"]]
    count = f"{setting['finished']} of {setting['seeds']}"
    for status in ("pruned", "failed"):
        if setting[status]:
            count += f"\n{setting[status]} {status}"
    return [label, with_interval(setting["figure"]), *of_seeds, count]


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
