"""How late do monitors see the fall of gold, and how often do they call one that is not there?

Short runs of two worlds: RLOO on the help topics, plain (gold falls) and with a KL weight of 0.25
(it does not), and DPO on the digits at β = 100 (the judge falls) and 5000 (it does not), each by
the library's own rounds and the configs that ARMS names. Monitors are read every ten steps and act
on nothing; gold only measures. A seed changes pairs, fits and training; the base policy is one.
Writes a run folder an arm and seed, `readings.csv` (a row a reading) and `table.md`; runs that
stand are not made again, and `--hours` ends between two runs.

    python experiments/studies/guard.py --seeds 3 --out runs/guard
    python experiments/studies/guard.py --tables docs/studies/guard.csv    # of readings that stand
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from side_by_side import made, markdown, write_csv

from rewardlab.evaluation.alarms import (
    Detection,
    Outcome,
    detection,
    first_above,
    first_alarm,
)
from rewardlab.evaluation.monitors import Reading
from rewardlab.evaluation.restricted import first_fall
from rewardlab.runs import read_runs

CONFIGS = Path(__file__).parents[2] / "configs"
LOOP = "--rounds.init_args.post_train.loop.init_args"
WINDOW = 2
PATIENCE = 2
TOLERANCES = (1.0, 2.0, 3.0, 5.0)

Row = dict[str, Any]


class Monitor(NamedTuple):
    """A figure that is read during training.

    Attributes:
        column: of metrics.csv; its standard error is in the same column of "…_error/".
        sign: 1 if it is worse when higher, else -1.
        levels: above which it is an alarm; by default, tolerances above its lowest reading are.
    """

    column: str
    sign: int = 1
    levels: tuple[float, ...] = ()

    @property
    def error_column(self) -> str:
        """Return the column of the standard error."""
        prefix, _, name = self.column.partition("/")
        return f"{prefix}_error/{name}"


class World(NamedTuple):
    """What is the same in a world's arms.

    Attributes:
        files: config files.
        gold: column of metrics.csv.
        margin: below the start that counts as a fall, in gold's units.
        monitors: by name.
    """

    files: tuple[str, ...]
    gold: str
    margin: float
    monitors: dict[str, Monitor]


class Arm(NamedTuple):
    """A world, and what an arm adds to it."""

    world: str
    flags: tuple[str, ...] = ()


TEXT = World(
    files=("adv_rm/topics.yaml", "adv_rm/study_guard.yaml"),
    gold="reading/gold",
    margin=0.07,  # 0.1 of the base policy's deviation, as in the menu's study
    monitors={
        "disagreement": Monitor("guard/disagreement"),
        "held-out member": Monitor("reading/held_out", sign=-1),
        "distance": Monitor("reading/familiarity", sign=-1),
        "MOP": Monitor("reading/mop", sign=-1),
        "MOP, share": Monitor("reading/mop", sign=-1, levels=(0.05, 0.1, 0.2)),
        "KL, nats": Monitor("reading/kl", levels=(2.0, 5.0, 10.0, 20.0)),
    },
)
DIGITS = World(
    files=("gan_rm/digits.yaml", "gan_rm/digits_dpo.yaml", "gan_rm/digits_monitors.yaml"),
    gold="reading/accuracy",
    margin=0.03,  # as in the norm ratio's study
    monitors={
        "disagreement": Monitor("guard/disagreement"),
        "classifier": Monitor("guard/classifier"),
        "distance": Monitor("guard/distance"),
        "norm ratio": Monitor("guard/norm_ratio"),
        "norm ratio, level": Monitor("guard/norm_ratio", levels=(1.02, 1.05, 1.1)),
    },
)
WORLDS = {"text": TEXT, "digits": DIGITS}
ARMS = {
    "text": Arm("text"),
    "text-kl0.25": Arm("text", (f"{LOOP}.kl_weight=0.25",)),
    "digits-beta100": Arm("digits", (f"{LOOP}.beta=100",)),
    "digits-beta5000": Arm("digits"),
}


def command(arm: str, seed: int, out: Path, more: Sequence[str] = ()) -> list[str]:
    """Return the command line of one run, which anyone can repeat by hand."""
    files = [f"--config={CONFIGS / name}" for name in WORLDS[ARMS[arm].world].files]
    folders = [f"--out={out / f'{arm}-{seed}'}", f"--stages={out / 'stages'}", "--resume"]
    flags = [f"--experiment.seed={seed}", *ARMS[arm].flags, *more, "--report=false"]
    return ["rounds", *files, *flags, *folders]


def readings(arm: str, seed: int, folder: Path) -> list[Row]:
    """Return a finished run's readings, a row a step at which gold was read."""
    run = read_runs([folder])[0]
    step = run.trained[-1]
    gold = WORLDS[ARMS[arm].world].gold
    curves: dict[str, dict[float, float]] = {}
    for name, curve in step.curves("").items():
        if name.startswith(("guard", "reading")):
            curves[name] = dict(curve)
    rows = []
    for number in sorted(curves[gold]):
        row = {name: curve[number] for name, curve in curves.items() if number in curve}
        rows.append({"arm": arm, "seed": seed, "step": number, **row})
    return rows


def outcome(rows: Sequence[Row], world: World, monitor: Monitor, threshold: float) -> Outcome:
    """Return when a monitor raised an alarm in a run, and when gold fell."""
    read = [row for row in rows if monitor.column in row]
    steps = [row["step"] for row in read]
    values = [monitor.sign * row[monitor.column] for row in read]
    if monitor.levels:
        alarm = first_above(steps, values, level=threshold, patience=PATIENCE)
    else:
        errors = [row[monitor.error_column] for row in read]
        pairs = [Reading(*pair) for pair in zip(values, errors, strict=True)]
        alarm = first_alarm(steps, pairs, tolerance=threshold, patience=PATIENCE)
    return Outcome(alarm, fall(rows, world), peak(rows, world))


def fall(rows: Sequence[Row], world: World) -> float | None:
    """Return the step at which a run's gold fell."""
    gold = torch.tensor([row[world.gold] for row in rows])
    steps = [row["step"] for row in rows]
    return first_fall(steps, gold, margin=world.margin, window=WINDOW)


def peak(rows: Sequence[Row], world: World) -> float:
    """Return the step at which a run's gold was highest, in its window."""
    gold = torch.tensor([row[world.gold] for row in rows])
    best = int(gold.unfold(0, WINDOW, 1).mean(1).argmax())
    return float(rows[best + WINDOW - 1]["step"])


def table(rows: Sequence[Row]) -> str:
    """Return a line a monitor and threshold of each world, as Markdown."""
    heads = [
        "world",
        "monitor",
        "alarm above",
        "runs that fall",
        "delay, steps: median [least, most]",
        "missed",
        "before the peak of gold",
        "runs that do not fall",
        "false alarms",
    ]
    lines = []
    for name, world in WORLDS.items():
        runs = [run for run in by_run(rows) if ARMS[run[0]["arm"]].world == name]
        if not runs:
            continue
        for title, monitor in world.monitors.items():
            for threshold in monitor.levels or TOLERANCES:
                outcomes = [outcome(run, world, monitor, threshold) for run in runs]
                above = f"{threshold:g}" if monitor.levels else f"{threshold:g} s.e."
                lines.append([name, title, above, *cells_of(detection(outcomes))])
    return markdown(heads, lines)


def cells_of(found: Detection) -> list[str]:
    """Return the cells of a detection."""
    delay = "–"
    if found.delays:
        ends = f"[{min(found.delays):+.0f}, {max(found.delays):+.0f}]"
        delay = f"{statistics.median(found.delays):+.0f} {ends}"
    return [
        str(found.falls),
        delay,
        str(found.missed),
        str(found.early),
        str(found.steady),
        str(found.false),
    ]


def falls_table(rows: Sequence[Row]) -> str:
    """Return each run's fall and peak of gold, as Markdown."""
    lines = []
    for run in by_run(rows):
        world = WORLDS[ARMS[run[0]["arm"]].world]
        step = fall(run, world)
        cells = [run[0]["arm"], str(run[0]["seed"]), f"{run[-1]['step']:.0f}"]
        cells += [f"{peak(run, world):.0f}", "–" if step is None else f"{step:.0f}"]
        lines.append(cells)
    return markdown(["arm", "seed", "last step", "peak of gold", "fall"], lines)


def by_run(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the readings of each run."""
    runs: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["arm"], row["seed"]), []).append(row)
    return list(runs.values())


def write(out: Path, rows: Sequence[Row]) -> None:
    """Write everything that was measured so far."""
    write_csv(out / "readings.csv", rows)
    (out / "table.md").write_text(tables(rows), encoding="utf-8")


def read(file: Path) -> list[Row]:
    """Return the readings in a file; a monitor that a run does not read is left out of its rows."""
    with file.open(encoding="utf-8", newline="") as stream:
        return [_typed(row) for row in csv.DictReader(stream)]


def _typed(row: dict[str, str]) -> Row:
    typed: Row = {}
    for name, text in row.items():
        if text:
            typed[name] = text if name == "arm" else float(text)
    typed["seed"] = int(row["seed"])
    return typed


def tables(rows: Sequence[Row]) -> str:
    """Return both tables, as Markdown."""
    return f"{falls_table(rows)}\n{table(rows)}"


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--out", type=Path, default=Path("runs/guard"))
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument("--tables", type=Path, nargs="+", help="of readings in these files alone")
    parser.add_argument("flags", nargs="*", help="flags of `rewardlab rounds` for every arm")
    return parser.parse_args()


def main() -> int:
    """Run all arms and seeds, and write the tables after each."""
    options = parse()
    if options.tables:
        print(tables([row for file in options.tables for row in read(file)]))
        return 0

    def command_of(arm: str, seed: int) -> list[str]:
        return command(arm, seed, options.out, options.flags)

    rows: list[Row] = []
    seeds = range(options.first, options.first + options.seeds)
    for run in made(options.arms, seeds, options.out, command_of, options.hours):
        rows += readings(*run)
        write(options.out, rows)
    print(tables(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
