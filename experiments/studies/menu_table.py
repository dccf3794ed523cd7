"""What the menu's study measures of runs: rows, curves, their files, the table and the picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from cycler import cycler
from menu_worlds import PLAIN, TOPICS, World
from side_by_side import markdown, read_csv, write_csv
from torch import Tensor

from rewardlab.evaluation.restricted import restricted_mean, restricted_ratio

NAMED = 14  # arms that a legend holds
COLORS = plt.color_sequences["tab10"]  # then the same again, dashed
FURTHER = (  # of some worlds alone
    "accuracy",
    "distance",
    "ink",
    "words",
    "repetition",
    "happy",
    "witness",
    "face",
)


class Row(NamedTuple):
    """A run's figures, gold above its start, in the world's unit.

    Attributes:
        arm, seed: which run.
        fall: step at which gold is the world's margin below its start; None if it never is.
        strict_fall: the same without a margin.
        peak: highest gold.
        at_5, at_10: gold where the KL first reaches 5 and 10 nats; None if it never does.
        below: share of readings below the start.
        end: mean of the last two readings.
        end_kl: nats at the end; None of a loop without a reference.
        variety: share of different pairs of words at the end, or the pictures' diversity.
        seconds: of the stages that the world counts.
        generations: of all stages but judging; None where rounds do not count them.
        accuracy, distance, ink: of pictures that are judged after training.
        words, repetition: of stories that are judged after training.
        happy, witness, face: of faces that are judged after training.
    """

    arm: str
    seed: int
    fall: float | None
    strict_fall: float | None
    peak: float
    at_5: float | None
    at_10: float | None
    below: float
    end: float
    end_kl: float | None
    variety: float
    seconds: float
    generations: float | None
    accuracy: float | None = None
    distance: float | None = None
    ink: float | None = None
    words: float | None = None
    repetition: float | None = None
    happy: float | None = None
    witness: float | None = None
    face: float | None = None


class Curve(NamedTuple):
    """A run's readings: gold above its start, the KL in nats where there is one, and the step."""

    gold: list[float]
    kl: list[float | None]
    step: Sequence[float] = ()  # runs of earlier sittings have none


class Measured(NamedTuple):
    """What is read of a run."""

    row: Row
    curve: Curve


class Group(NamedTuple):
    """An arm's rows, and the rows that they are beside by their seeds."""

    rows: Sequence[Row]
    plain: Mapping[int, Row]
    world: World

    def values(self, name: str) -> list[float | None]:
        """Return a figure of each row."""
        return [getattr(row, name) for row in self.rows]


def falls_of(group: Group) -> str:
    """Return how many runs fell."""
    count = sum(fall is not None for fall in group.values("fall"))
    return f"{count} of {len(group.rows)}"


def mean_of(group: Group) -> str:
    """Return the restricted mean of the step of fall."""
    return f"{restricted_mean(group.values('fall'), group.world.horizon):.0f}"


def below_of(group: Group) -> str:
    """Return the mean share of readings below the start."""
    return f"{statistics.mean(row.below for row in group.rows):.2f}"


def ratio_of(group: Group) -> str:
    """Return the ratio of restricted means with its paired interval, where seeds allow one."""
    paired = [row for row in group.rows if row.seed in group.plain]
    if len(paired) < 2:
        return ""
    falls = [row.fall for row in paired]
    beside = [group.plain[row.seed].fall for row in paired]
    ratio = restricted_ratio(falls, beside, group.world.horizon)
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def spread_of(name: str) -> Callable[[Group], str]:
    """Return what writes a figure's mean ± standard deviation."""
    return lambda group: spread(group.values(name))


def times_of(name: str) -> Callable[[Group], str]:
    """Return what writes the mean ratio of a cost to the plain run's of the same seed."""

    def cell(group: Group) -> str:
        ratios = []
        for row in group.rows:
            plain = group.plain.get(row.seed)
            if plain is not None and getattr(plain, name):
                ratios.append(getattr(row, name) / getattr(plain, name))
        return f"{statistics.mean(ratios):.2f}" if ratios else ""

    return cell


class Column(NamedTuple):
    """A column of the table: its head, with the world's fields in braces, and what fills it."""

    head: str
    cell: Callable[[Group], str]


COLUMNS = {
    "falls": Column("falls", falls_of),
    "mean": Column("restricted mean to {horizon}", mean_of),
    "ratio": Column("ratio to {beside}", ratio_of),
    "peak": Column("peak, {unit}", spread_of("peak")),
    "at_5": Column("at 5 nats", spread_of("at_5")),
    "at_10": Column("at 10 nats", spread_of("at_10")),
    "below": Column("readings below the start", below_of),
    "end": Column("end, {unit}", spread_of("end")),
    "end_kl": Column("KL there", spread_of("end_kl")),
    "variety": Column("variety", spread_of("variety")),
    "accuracy": Column("read as the right digit", spread_of("accuracy")),
    "distance": Column("distance from held-out targets", spread_of("distance")),
    "ink": Column("ink", spread_of("ink")),
    "words": Column("words", spread_of("words")),
    "repetition": Column("repetition", spread_of("repetition")),
    "happy": Column("happy, by the expression net", spread_of("happy")),
    "witness": Column("witness", spread_of("witness")),
    "face": Column("a face, by the detector", spread_of("face")),
    "generations": Column("generations", times_of("generations")),
    "seconds": Column("seconds", times_of("seconds")),
}


def table(rows: Sequence[Row], world: World = TOPICS) -> str:
    """Return a line an arm, as Markdown; costs and ratios are beside another arm's same seeds."""
    columns = [COLUMNS[name] for name in world.columns]
    besides = {arm.beside for arm in world.arms.values()}
    beside = PLAIN if besides == {PLAIN} else "its plain arm"
    fields = {"horizon": world.horizon, "unit": world.unit, "beside": beside}
    heads = ["arm", "seeds", *(column.head.format(**fields) for column in columns)]
    lines = []
    for arm in dict.fromkeys(row.arm for row in rows):
        chosen = [row for row in rows if row.arm == arm]
        plain = {row.seed: row for row in rows if row.arm == world.arms[arm].beside}
        group = Group(chosen, plain, world)
        lines.append([arm, str(len(chosen)), *(column.cell(group) for column in columns)])
    return markdown(heads, lines)


def spread(values: Sequence[float | None]) -> str:
    """Return mean ± standard deviation of the values that there are, and how many if some lack."""
    known = [value for value in values if value is not None]
    if not known:
        return "not reached"
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    suffix = "" if len(known) == len(values) else f" ({len(known)} of {len(values)})"
    return f"{statistics.mean(known):.2f} ± {deviation:.2f}{suffix}"


def write(out: Path, measured: Sequence[Measured], world: World = TOPICS) -> None:
    """Write everything that was measured so far."""
    rows = [entry.row for entry in measured]
    write_csv(out / "runs.csv", [figures_of(row) for row in rows])
    write_csv(out / "curves.csv", list(readings_in(measured)))
    (out / "table.md").write_text(table(rows, world), encoding="utf-8")
    picture(measured, out / "menu.png", world)


def figures_of(row: Row) -> dict[str, Any]:
    """Return a row as plain data, without the figures that its world has not."""
    figures = row._asdict()
    absent = [name for name in FURTHER if figures[name] is None]
    return {name: value for name, value in figures.items() if name not in absent}


def readings_in(measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Yield a row a reading, rounded to four digits."""
    for row, curve in measured:
        for number, gold in enumerate(curve.gold):
            kl = curve.kl[number]
            step = {"step": curve.step[number]} if curve.step else {}
            nats = None if kl is None else round(kl, 4)
            yield {"arm": row.arm, "seed": row.seed, **step, "gold": round(gold, 4), "kl": nats}


def joined_runs(files: Sequence[Path], world: World = TOPICS) -> list[Measured]:
    """Return the runs of earlier sittings, the later file's where two hold one, arm by arm."""
    runs = {}
    for file in files:
        for entry in known_runs(file):
            runs[entry.row.arm, entry.row.seed] = entry
    arms = list(world.arms)
    return sorted(runs.values(), key=lambda entry: (arms.index(entry.row.arm), entry.row.seed))


def known_runs(file: Path) -> list[Measured]:
    """Return the runs of an earlier sitting: its rows, and the curves in the file beside it."""
    readings = [numbers_of(row) for row in read_csv(curves_file(file))]
    runs = []
    for row in map(numbers_of, read_csv(file)):
        run = (row["arm"], row["seed"])
        own = [entry for entry in readings if (entry["arm"], entry["seed"]) == run]
        steps = tuple(entry["step"] for entry in own if entry.get("step") is not None)
        gold = [entry["gold"] for entry in own]
        curve = Curve(gold, [entry["kl"] for entry in own], steps)
        runs.append(Measured(Row(**row), curve))
    return runs


def curves_file(rows: Path) -> Path:
    """Return the file of the curves beside a file of rows."""
    return rows.with_name("curves.csv" if rows.stem == "runs" else f"{rows.stem}_curves.csv")


def numbers_of(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with numbers for texts, and None for what is empty."""
    numbers: dict[str, Any] = {"arm": row["arm"], "seed": int(row["seed"])}
    for name, text in row.items():
        if name not in numbers:
            numbers[name] = float(text) if text else None
    return numbers


def picture(measured: Sequence[Measured], file: Path, world: World = TOPICS) -> None:
    """Draw gold, a line an arm: means over its seeds at each reading.

    It is drawn against √KL, or against the step if a run has no KL. Of many arms those that end
    below the start have no name.
    """
    by_kl = all(None not in entry.curve.kl for entry in measured)
    figure, axes = plt.subplots(figsize=(8.5, 4.5))
    axes.set_prop_cycle(cycler(linestyle=["-", "--"]) * cycler(color=COLORS))
    curves = curves_by_arm(measured)
    means = {arm: mean_curve(runs, by_kl) for arm, runs in curves.items()}
    named = named_arms(means)
    unnamed = [mean for arm, mean in means.items() if arm not in named]
    for number, mean in enumerate(unnamed):
        label = f"{len(unnamed)} others, which end below" if number == 0 else None
        axes.plot(*mean, label=label, color="lightgrey", linestyle="-", linewidth=0.8)
    for arm in named:
        axes.plot(*means[arm], label=f"{arm} ({len(curves[arm])})", linewidth=1.2)
    axes.axhline(0, color="grey", linewidth=0.8)
    if world.unit == TOPICS.unit:
        axes.set_ylim(-3, 3)
    axes.set_xlabel("√KL from the first policy, √nats" if by_kl else "steps")
    axes.set_ylabel(f"gold above its start, {world.unit}")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def curves_by_arm(measured: Sequence[Measured]) -> dict[str, list[Curve]]:
    """Return each arm's curves, without the runs of early sittings that kept rows alone."""
    curves: dict[str, list[Curve]] = {}
    for entry in measured:
        if entry.curve.gold:
            curves.setdefault(entry.row.arm, []).append(entry.curve)
    return curves


def named_arms(means: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Return the arms with a name in the picture: of many the plain one and what ends above 0."""
    if len(means) <= NAMED:
        return list(means)
    return [arm for arm, (_, gold) in means.items() if arm == PLAIN or gold[-1] >= 0]


def mean_curve(curves: Sequence[Curve], by_kl: bool) -> tuple[Tensor, Tensor]:
    """Return the means over runs of √KL, or of the step, and of gold, a number a reading."""
    length = min(len(curve.gold) for curve in curves)
    gold = torch.tensor([curve.gold[:length] for curve in curves]).mean(0)
    if by_kl:
        kl = torch.tensor([curve.kl[:length] for curve in curves])
        return kl.clamp_min(0).sqrt().mean(0), gold
    return torch.tensor([curve.step[:length] for curve in curves]).mean(0), gold
