"""Compare runs: what they differ in, figures pooled over seeds, and figures against a setting.

Runs that differ in nothing but seeds are one group, whose figures have a mean and an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os.path import commonprefix
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rewardlab.report.figures import MISSING, mean, sig
from rewardlab.report.markup import Block, Section, details, table, tag
from rewardlab.report.picture import Picture, canvas, drawable, png_of, slug
from rewardlab.report.rows import RUNS
from rewardlab.report.run_tables import differences_table
from rewardlab.report.seed_curves import seed_curves
from rewardlab.report.single import logged_values
from rewardlab.report.statements import judges, listed
from rewardlab.runs.differences import differences
from rewardlab.runs.read import Run, at

SEEDS = ("seed", "seed_everything")
SETTINGS_SHOWN = 8
LABEL_SETTINGS = 3
MOST_PANELS = 6
WIDE_RATIO = 20.0  # from which a positive setting has a logarithmic axis
# 97.5 % quantiles of Student's t, by degrees of freedom from 1; beyond them the normal one is near
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
NORMAL = 1.96
ABOUT_POOLED = (
    "Means over runs that differ in nothing but seeds, with 95 % intervals over these runs "
    "(Student's t), which are wide for two or three. "
)
Values = dict[str, float]


class Group(NamedTuple):
    """Runs that differ in nothing but seeds.

    Attributes:
        label: the settings that tell it from the other groups.
        settings: these settings, by their dotted key.
        runs: the runs.
        figures: the figures of each run.
    """

    label: str
    settings: dict[str, Any]
    runs: list[Run]
    figures: list[Values]

    def values(self, name: str) -> list[float]:
        """Return a figure of each run that has it."""
        return [figures[name] for figures in self.figures if name in figures]


def comparison(runs: Sequence[Run]) -> list[Section]:
    """Return what runs of one command differ in, and their figures; nothing for a single run."""
    if len(runs) < 2:
        return []
    settings = {}
    for key, values in differences(runs).items():
        if key.rpartition(".")[2] not in SEEDS:
            settings[key] = values
    groups = _groups(runs, settings)
    blocks: list[Block] = [_settings(runs, settings)]
    if any(len(group.runs) > 1 for group in groups):
        blocks.append(_pooled_table(groups))
        pooled = seed_curves([(group.label, group.runs) for group in groups])
        blocks.append([] if pooled is None else [pooled])
    blocks.append(_charts(groups, settings))
    return [Section("What the runs differ in", blocks)]


def _settings(runs: Sequence[Run], settings: dict[str, list[Any]]) -> str:
    """Return the settings in which runs differ, the first ones at once and the others folded."""
    if not settings:
        return tag("p", f"{listed([run.name for run in runs])} differ in their seeds alone.")
    keys = list(settings)
    first = {key: settings[key] for key in keys[:SETTINGS_SHOWN]}
    others = {key: settings[key] for key in keys[SETTINGS_SHOWN:]}
    more = f"{len(others)} more settings"
    return differences_table(runs, first) + details(more, differences_table(runs, others))


def _groups(runs: Sequence[Run], settings: dict[str, list[Any]]) -> list[Group]:
    """Return the runs in groups of equal settings, seeds aside."""
    groups: dict[str, Group] = {}
    for place, run in enumerate(runs):
        own = {key: values[place] for key, values in settings.items()}
        identity = str(own)
        if identity not in groups:
            groups[identity] = Group("", own, [], [])
        groups[identity].runs.append(run)
        groups[identity].figures.append(figures_of(run))
    labelled = []
    for group in groups.values():
        labelled.append(group._replace(label=_label(group.settings, group.runs)))
    return labelled


def _label(settings: dict[str, Any], runs: Sequence[Run]) -> str:
    """Return what tells a group from others: its few settings, else its runs' common name."""
    if not settings:
        return "all runs"
    if len(settings) > LABEL_SETTINGS:
        return common_name([run.name for run in runs])
    texts = []
    for key, value in settings.items():
        text = MISSING if value is None else value
        texts.append(f"{short_name(key)} {text}")
    return ", ".join(texts)


def common_name(names: Sequence[str]) -> str:
    """Return what the names of runs begin with, without a number or the word "seed" behind it.

    Example:
        >>> common_name(["rlhf_plain-1", "rlhf_plain-12"]), common_name(["sft"])
        ('rlhf_plain', 'sft')
        >>> common_name(["a/seed0", "b/seed0"])
        'a/seed0'
    """
    if len(names) == 1:
        return names[0]
    prefix = commonprefix(list(names))  # noqa: RUF071 (names, not paths)
    prefix = prefix.rstrip("0123456789").removesuffix("seed").rstrip("-_./ ")
    return prefix or names[0]


def short_name(key: str) -> str:
    """Return the part of a dotted key that people call the setting by.

    Example:
        >>> short_name("rounds.init_args.post_train.loop.init_args.beta")
        'loop beta'
        >>> short_name("rounds.init_args.post_train.loop.class_path")
        'loop'
    """
    parts = [part for part in key.split(".") if part not in ("init_args", "class_path")]
    return " ".join(parts[-2:]) if parts[-1] != "loop" else parts[-1]


def figures_of(run: Run) -> Values:
    """Return the figures by which runs are compared, as far as the run has them.

    Of rounds these are what the judges say of the last outputs, and what the last round's reward
    does; of a fit the last values of what it logged on held-out data.
    """
    if run.kind == "fit":
        return {name: values[-1] for name, values in logged_values(run).items()}
    if not run.trained:
        return {}
    last = run.trained[-1]
    figures: dict[str, Any] = {}
    for name in judges(last.judged):
        figures[name] = mean(at(last.judged, name))
    figures["distance"] = mean(at(last.judged, "distance"))
    after = mean(at(last.separation, "score_after"))
    before = mean(at(last.separation, "score_before"))
    if after is not None and before is not None:
        figures["reward score over its start"] = after - before
    figures["AUC after"] = mean(at(last.separation, "auc_after"))
    return {name: value for name, value in figures.items() if value is not None}


def _names(groups: Sequence[Group]) -> list[str]:
    """Return the names of all figures, in order."""
    names: dict[str, None] = {}
    for group in groups:
        for figures in group.figures:
            names |= dict.fromkeys(figures)
    return list(names)


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Return the mean of values of several seeds, and its 95 % interval where there are two.

    Example:
        >>> pooled = over_seeds([1.0, 2.0, 3.0])
        >>> round(pooled["mean"], 3), round(pooled["low"], 3), round(pooled["high"], 3)
        (2.0, -0.484, 4.484)
        >>> over_seeds([1.0])
        {'mean': 1.0}
    """
    middle = fmean(values)
    count = len(values)
    if len(set(values)) < 2:  # equal values, such as an accuracy of 1, say nothing of the spread
        return {"mean": middle}
    quantile = NORMAL
    if count - 2 < len(STUDENT):
        quantile = STUDENT[count - 2]
    error = stdev(values) / math.sqrt(count)
    half = quantile * error
    return {"mean": middle, "low": middle - half, "high": middle + half}


def _pooled_table(groups: Sequence[Group]) -> str:
    """Return each figure of each group: its mean over seeds, the interval below it."""
    names = _names(groups)
    rows = []
    for group in groups:
        row = [group.label, str(len(group.runs))]
        for name in names:
            row.append(_pooled_cell(group.values(name)))
        rows.append(row)
    members = []
    for group in groups:
        names_of_runs = [run.name for run in group.runs]
        if len(names_of_runs) > 1:
            members.append(f"{group.label}: {listed(names_of_runs)}")
    caption = f"{ABOUT_POOLED}{'; '.join(members)}."
    return table(["", "runs", *names], rows, caption)


def _pooled_cell(values: Sequence[float]) -> str:
    if not values:
        return MISSING
    pooled = over_seeds(values)
    text = sig(pooled)
    if "low" in pooled:
        low = sig(pooled["low"])
        high = sig(pooled["high"])
        text += f"\n[{low}, {high}]"
    return text


def _charts(groups: Sequence[Group], settings: dict[str, list[Any]]) -> list[Picture]:
    """Return the chart of figures against the one setting that differs, if it is a number."""
    if len(settings) != 1 or len(groups) < 2:
        return []
    [key] = settings
    values = [group.settings[key] for group in groups]
    if not all(_is_number(value) for value in values):
        return []
    names = _names(groups)[:MOST_PANELS]
    if not names:
        return []
    return [_chart(groups, key, names)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chart(groups: Sequence[Group], key: str, names: Sequence[str]) -> Picture:
    """Draw figures against a setting, one panel a figure."""
    ordered = sorted(groups, key=lambda group: float(group.settings[key]))
    setting = short_name(key)
    across = min(3, len(names))
    down = -(-len(names) // across)
    with canvas(3.2 * across, 2.4 * down) as figure:
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for name, axes in zip(names, panels, strict=False):
            _draw_panel(axes, ordered, key, name)
            axes.set_title(drawable(name), fontsize=9)
            axes.set_xlabel(drawable(setting))
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        png = png_of(figure)
    alt = _chart_alt(ordered, setting, names)
    caption = "A dot is a run; the line joins means over seeds, bars are 95 % intervals."
    return Picture(
        f"against-{slug(setting)}",
        png,
        alt,
        caption,
        width=340 * across,
    )


def _chart_alt(groups: Sequence[Group], setting: str, names: Sequence[str]) -> str:
    """Say what a chart shows: each figure of each group."""
    texts = []
    for group in groups:
        cells = []
        for name in names:
            cell = _pooled_cell(group.values(name)).replace("\n", " ")
            cells.append(f"{name} {cell}")
        texts.append(f"{group.label}: {', '.join(cells)}")
    return f"Figures against {setting}. {'; '.join(texts)}."


def _draw_panel(axes: Any, groups: Sequence[Group], key: str, name: str) -> None:
    """Draw one figure of each run, and the means of the groups, against a setting."""
    colour = RUNS[0]
    across = []
    means = []
    halves = []
    for group in groups:
        values = group.values(name)
        if not values:
            continue
        x = float(group.settings[key])
        axes.plot([x] * len(values), values, ".", color=colour, alpha=0.35)
        pooled = over_seeds(values)
        middle = pooled["mean"]
        across.append(x)
        means.append(middle)
        halves.append(pooled.get("high", middle) - middle)
    bars = halves if any(halves) else None
    axes.errorbar(across, means, yerr=bars, color=colour, marker="o", markersize=4, linewidth=1.4)
    if across and across[0] > 0 and across[-1] / across[0] >= WIDE_RATIO:
        axes.set_xscale("log")
