"""The menu side by side: what postpones the fall of gold, at what height, and at what cost.

Each arm is the hardening study's base (`configs/adv_rm/topics.yaml`, `study.yaml`) with fragments
of `configs/menu/` and flags laid over it; no algorithm is in here. Gold only measures. Runs that
stand are not made again, and `--hours` ends between two runs.

    python experiments/studies/menu.py --arms none kl0.25 online --seeds 2 3 4 --out runs/menu

Writes a run folder an arm and seed, `runs.csv`, `curves.csv` (a row a reading), `table.md` and
`menu.png` (gold against √KL). Runs that a `runs.csv` of an earlier sitting holds (`--known`) count
and are not made again. Settings were chosen on seeds 0 and 1; report others.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from hardening import INIT, KL, base_deviation, readings_of, texts_of_run, variety
from side_by_side import made, markdown, read_csv, write_csv

from rewardlab.evaluation.restricted import first_fall, restricted_mean, restricted_ratio
from rewardlab.evaluation.stability import gold_at_kl
from rewardlab.runs import read_runs

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = ("adv_rm/topics.yaml", "adv_rm/study.yaml")
PLAIN = "none"
HORIZON = 520
MARGIN = 0.1  # σ below the start that count as a fall
WINDOW = 2
NO_ROUNDS = (f"{INIT}rounds=0",)
FROZEN = (
    f"{INIT}online.online.init_args.optimizer.class_path=torch.optim.SGD",
    f"{INIT}online.online.init_args.optimizer.init_args.lr=0",
)


class Arm(NamedTuple):
    """What an arm lays over the base: config files, then flags."""

    files: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


ARMS = {
    PLAIN: Arm(("menu/members.yaml",), NO_ROUNDS),
    "single": Arm((), NO_ROUNDS),
    "kl0.1": Arm(("menu/members.yaml",), (*NO_ROUNDS, f"{KL}=0.1")),
    "kl0.25": Arm(("menu/members.yaml",), (*NO_ROUNDS, f"{KL}=0.25")),
    "kl0.5": Arm(("menu/members.yaml",), (*NO_ROUNDS, f"{KL}=0.5")),
    "paper": Arm(("adv_rm/study_paper.yaml",)),
    "ibl": Arm(("adv_rm/topics_novelty.yaml",)),
    "online": Arm(("menu/online.yaml",)),
    "online-frozen": Arm(("menu/online.yaml",), FROZEN),
    "restart": Arm(("adv_rm/restart.yaml",)),
    "anchor": Arm(("adv_rm/anchor.yaml",)),
    "kl-online": Arm(("menu/online.yaml",), (*FROZEN, f"{KL}=2")),
    "kl-anchor": Arm(("menu/online.yaml", "adv_rm/anchored.yaml"), FROZEN),
}
ITEMS = (
    "par",
    "soft_minimum",
    "mean_minus_std",
    "worst_case",
    "length_calibration",
    "gradient_regularization",
    "reference_reset",
    "gated_kl",
    "diversity",
    "grm",
    "batch_sum",
    "bottleneck",
    "independent_members",
)
for item in ITEMS:
    ARMS[item] = Arm(("menu/members.yaml", f"menu/{item}.yaml"), NO_ROUNDS)
for item in ("independent_witness", "quantile", "off_policy"):  # of rounds of attack
    ARMS[item] = Arm((f"menu/{item}.yaml",))
MAIN = (PLAIN, "kl0.25", "paper", "ibl", "online", "online-frozen", "restart")
RESTARTED = "online"  # whose hardened reward the arm "restart" climbs anew, by the same seed
ANCHOR = "anchor"  # the run whose policy the arm "kl-anchor" is held to; it is made first


class Row(NamedTuple):
    """A run's figures, gold in the base policy's deviations above its start.

    Attributes:
        arm, seed: which run.
        fall: step at which gold is `MARGIN` below its start; None if it never is.
        strict_fall: the same without a margin.
        peak: highest gold.
        at_5, at_10: gold where the KL first reaches 5 and 10 nats; None if it never does.
        below: share of readings below the start.
        end: mean of the last two readings.
        end_kl: nats at the end.
        variety: share of different pairs of words at the end.
        seconds: of all stages but judging.
        generations: of all stages but judging.
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
    end_kl: float
    variety: float
    seconds: float
    generations: float


class Curve(NamedTuple):
    """A run's readings: gold above its start in σ, and the KL in nats."""

    gold: list[float]
    kl: list[float]


class Measured(NamedTuple):
    """What is read of a run."""

    row: Row
    curve: Curve


def command(arm: str, seed: int, out: Path, more: Sequence[str] = ()) -> list[str]:
    """Return the command line of one run, which anyone can repeat by hand."""
    files = [f"--config={CONFIGS / name}" for name in (*BASE, *ARMS[arm].files)]
    flags = [f"--experiment.seed={seed}", *ARMS[arm].flags]
    if arm == "restart":
        flags.append(f"--experiment.reward_path={out / f'{RESTARTED}-{seed}' / 'reward'}")
    if arm == "kl-anchor":
        flags.append(f"--experiment.policy_path={out / f'{ANCHOR}-{seed}' / 'policy'}")
    folders = [f"--out={out / f'{arm}-{seed}'}", f"--stages={out / 'stages'}", "--resume"]
    return ["rounds", *files, *flags, *more, *folders]


def measure(arm: str, seed: int, folder: Path) -> Measured:
    """Read a finished run."""
    run = read_runs([folder])[0]
    last = max(int(number) for number in run.results["rounds"])
    readings = readings_of(run, last)
    sigma = base_deviation(run)
    start = readings[0]["gold"]
    gold = torch.tensor([(reading["gold"] - start) / sigma for reading in readings])
    kl = torch.tensor([reading["kl"] for reading in readings])
    steps = [reading["step"] for reading in readings]
    cost = json.loads((folder / "timing.json").read_text(encoding="utf-8"))["cost"]
    row = Row(
        arm=arm,
        seed=seed,
        fall=first_fall(steps, gold, margin=MARGIN, window=WINDOW),
        strict_fall=first_fall(steps, gold, window=WINDOW),
        peak=gold.unfold(0, WINDOW, 1).mean(1).max().item(),
        at_5=gold_at_kl(kl, gold, 5.0),
        at_10=gold_at_kl(kl, gold, 10.0),
        below=(gold[1:] < 0).float().mean().item(),
        end=gold[-WINDOW:].mean().item(),
        end_kl=kl[-1].item(),
        variety=variety(texts_of_run(run, last)),
        seconds=cost["seconds"]["all"] or float("nan"),
        generations=cost["generations"]["all"],
    )
    return Measured(row, Curve(gold.tolist(), kl.tolist()))


def known_runs(file: Path | None) -> list[Measured]:
    """Return the runs of an earlier sitting: its rows, and the curves in the file beside it."""
    if file is None:
        return []
    readings = [numbers_of(row) for row in read_csv(curves_file(file))]
    runs = []
    for row in map(numbers_of, read_csv(file)):
        run = (row["arm"], row["seed"])
        own = [entry for entry in readings if (entry["arm"], entry["seed"]) == run]
        curve = Curve([entry["gold"] for entry in own], [entry["kl"] for entry in own])
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


def table(rows: Sequence[Row]) -> str:
    """Return a line an arm, as Markdown; costs and ratios are beside the plain arm's same seeds."""
    heads = [
        "arm",
        "seeds",
        "falls",
        f"restricted mean to {HORIZON}",
        "ratio to none",
        "peak, σ",
        "at 5 nats",
        "at 10 nats",
        "readings below the start",
        "end, σ",
        "KL there",
        "variety",
        "generations",
        "seconds",
    ]
    lines = []
    for arm in dict.fromkeys(row.arm for row in rows):
        cells = cells_of([row for row in rows if row.arm == arm], plain_of(rows))
        lines.append([arm, *cells])
    return markdown(heads, lines)


def plain_of(rows: Sequence[Row]) -> dict[int, Row]:
    """Return the plain arm's rows by their seeds."""
    return {row.seed: row for row in rows if row.arm == PLAIN}


def cells_of(rows: Sequence[Row], plain: dict[int, Row]) -> list[str]:
    """Return the cells of an arm."""
    falls = [row.fall for row in rows]
    count = sum(fall is not None for fall in falls)
    paired = [row for row in rows if row.seed in plain]
    return [
        str(len(rows)),
        f"{count} of {len(rows)}",
        f"{restricted_mean(falls, HORIZON):.0f}",
        ratio_of(paired, plain),
        spread([row.peak for row in rows]),
        spread([row.at_5 for row in rows]),
        spread([row.at_10 for row in rows]),
        f"{statistics.mean(row.below for row in rows):.2f}",
        spread([row.end for row in rows]),
        spread([row.end_kl for row in rows]),
        spread([row.variety for row in rows]),
        times([row.generations / plain[row.seed].generations for row in paired]),
        times([row.seconds / plain[row.seed].seconds for row in paired]),
    ]


def ratio_of(rows: Sequence[Row], plain: dict[int, Row]) -> str:
    """Return the ratio of restricted means with its paired interval, where seeds allow one."""
    if len(rows) < 2:
        return ""
    falls = [row.fall for row in rows]
    ratio = restricted_ratio(falls, [plain[row.seed].fall for row in rows], HORIZON)
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def spread(values: Sequence[float | None]) -> str:
    """Return mean ± standard deviation of the values that there are, and how many if some lack."""
    known = [value for value in values if value is not None]
    if not known:
        return "not reached"
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    suffix = "" if len(known) == len(values) else f" ({len(known)} of {len(values)})"
    return f"{statistics.mean(known):.2f} ± {deviation:.2f}{suffix}"


def times(ratios: Sequence[float]) -> str:
    """Return the mean of ratios."""
    return f"{statistics.mean(ratios):.2f}" if ratios else ""


def write(out: Path, measured: Sequence[Measured]) -> None:
    """Write everything that was measured so far."""
    rows = [entry.row for entry in measured]
    write_csv(out / "runs.csv", [row._asdict() for row in rows])
    write_csv(out / "curves.csv", list(readings_in(measured)))
    (out / "table.md").write_text(table(rows), encoding="utf-8")
    picture(measured, out / "menu.png")


def readings_in(measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Yield a row a reading, rounded to four digits."""
    for row, curve in measured:
        for gold, kl in zip(curve.gold, curve.kl, strict=True):
            yield {"arm": row.arm, "seed": row.seed, "gold": round(gold, 4), "kl": round(kl, 4)}


def picture(measured: Sequence[Measured], file: Path) -> None:
    """Draw gold against √KL, a line an arm: means over its seeds at each reading."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    for arm in dict.fromkeys(entry.row.arm for entry in measured):
        runs = [entry.curve for entry in measured if entry.row.arm == arm]
        curves = [curve for curve in runs if curve.gold]  # some early sittings kept rows alone
        if not curves:
            continue
        length = min(len(curve.gold) for curve in curves)
        gold = torch.tensor([curve.gold[:length] for curve in curves]).mean(0)
        kl = torch.tensor([curve.kl[:length] for curve in curves]).clamp_min(0).sqrt().mean(0)
        axes.plot(kl, gold, label=f"{arm} ({len(curves)})", linewidth=1.2)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_ylim(-3, 3)
    axes.set_xlabel("√KL from the first policy, √nats")
    axes.set_ylabel("gold above its start, σ")
    axes.legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(MAIN))
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5, 6])
    parser.add_argument("--out", type=Path, default=Path("runs/menu"))
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument("--known", type=Path, help="runs.csv of an earlier sitting")
    parser.add_argument("flags", nargs="*", help="flags of `rewardlab rounds` for every arm")
    return parser.parse_args()


def main() -> int:
    """Run all arms and seeds, and write the tables after each."""
    options = parse()

    def command_of(arm: str, seed: int) -> list[str]:
        return command(arm, seed, options.out, options.flags)

    measured = known_runs(options.known)
    done = {(entry.row.arm, entry.row.seed) for entry in measured}
    for run in made(options.arms, options.seeds, options.out, command_of, options.hours, done):
        if run.arm == ANCHOR:
            continue  # no RLHF: nothing to compare
        measured.append(measure(*run))
        write(options.out, measured)
    print(table([entry.row for entry in measured]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
