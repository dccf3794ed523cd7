"""Does the ratio of velocities grow before the judge falls, and does its hinge hold the policy?

Measured on the digits (`rewardlab.embedded.digits`), each arm by the library's own rounds and the
configs that ARMS names. Policies are over-optimized on purpose: by DPO at β = 100, by ReFL and by
PPO. The judge only measures. A seed changes the reward, the candidates and the training; the base
policy is one. Writes a run folder an arm and seed, `readings.csv` (a row a reading), `finish.csv`
(a row a τ of the base finish), `table.md` and `curves.png`; runs that stand are not made again.

    python experiments/studies/norm_ratio.py --seeds 2 --out runs/norm_ratio
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from side_by_side import made, markdown, write_csv

from rewardlab.embedded.digit_data import WORDS
from rewardlab.embedded.digits import DigitJudge, base_policy
from rewardlab.evaluation import finish_curve
from rewardlab.policies import BaseFinish, Generator, load_policy
from rewardlab.rewards import Brightness, load_reward
from rewardlab.runs import read_runs
from rewardlab.runs.layout import stage_name

CONFIGS = Path(__file__).parents[2] / "configs"
LOOP = "--rounds.init_args.post_train.loop.init_args"
STEPS = "--rounds.init_args.post_train.trainer.init_args.max_steps"
FIGURES = {
    "ratio": "guard/norm_ratio",
    "distance": "guard/distance",
    "reward": "guard/score",
    "accuracy": "reading/accuracy",
}
# what counts as a sign: the ratio, the distance as a multiple of its start, the judge's fall
RATIO, DISTANCE, FALL = 1.05, 2.0, 0.03

Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What an arm is made of: config files after digits.yaml, then flags."""

    files: tuple[str, ...]
    flags: tuple[str, ...] = ()


DPO = ("gan_rm/digits_dpo.yaml",)
FLOW = (*DPO, "gan_rm/digits_flow.yaml")
WEAK = f"{LOOP}.beta=100"
SHORT = f"{STEPS}=60"
ARMS = {
    "dpo": Arm(DPO, (WEAK, SHORT)),
    "dpo_hinge_1": Arm(DPO, (WEAK, SHORT, f"{LOOP}.norm_guard=1")),
    "dpo_hinge_10": Arm(DPO, (WEAK, SHORT, f"{LOOP}.norm_guard=10")),
    "dpo_hinge_100": Arm(DPO, (WEAK, SHORT, f"{LOOP}.norm_guard=100")),
    "dpo_beta_5000": Arm(DPO, (SHORT,)),
    "refl": Arm(("gan_rm/digits_refl.yaml",), (f"{LOOP}.optimizer.init_args.lr=0.00005", SHORT)),
    "ppo": Arm(("matrix/image_ppo.yaml",), (f"{LOOP}.optimizer.init_args.lr=0.0003", SHORT)),
    "flow_fresh": Arm(FLOW, (WEAK, SHORT, f"{LOOP}.noise=fresh")),
    "flow_own": Arm(FLOW, (WEAK, SHORT)),
}
FINISHED = "dpo"
FINISH_COLUMNS = ("reward", "accuracy", "ink")
TAUS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def command(arm: str, seed: int, out: Path) -> list[str]:
    """Return the command line of one run, which anyone can repeat by hand."""
    files = ["gan_rm/digits.yaml", *ARMS[arm].files, "gan_rm/digits_norms.yaml"]
    configs = [f"--config={CONFIGS / name}" for name in files]
    folders = [f"--out={out / f'{arm}-{seed}'}", f"--stages={out / 'stages'}", "--resume"]
    return ["rounds", *configs, f"--experiment.seed={seed}", *ARMS[arm].flags, *folders]


def readings(arm: str, seed: int, folder: Path) -> list[Row]:
    """Return a finished run's readings, a row a step that has all figures."""
    stage = read_runs([folder])[0].stage(stage_name(1, "post-train"))
    if stage is None:
        raise SystemExit(f"{folder} has no trained policy. Was it killed?")
    by_step: dict[float, Row] = {}
    for line in csv.DictReader((stage / "metrics.csv").read_text(encoding="utf-8").splitlines()):
        row = by_step.setdefault(float(line["step"]), {"arm": arm, "seed": seed})
        row["step"] = float(line["step"])
        for name, column in FIGURES.items():
            if line.get(column):
                row[name] = float(line[column])
    return [row for row in by_step.values() if set(FIGURES) <= set(row)]


def finishes(seed: int, folder: Path) -> list[Row]:
    """Return reward, judge and ink of an over-optimized policy that its base finishes from τ on."""
    policy = load_policy(folder / "policy").eval()
    base = base_policy().eval()
    rewards = {
        "reward": load_reward(folder / "reward"),
        "accuracy": DigitJudge(),
        "ink": Brightness(),
    }

    def finish(tau: float) -> Generator:
        return BaseFinish(policy, tau, base)

    rows = finish_curve(finish, rewards, WORDS, taus=TAUS, samples=200, seed=0)
    return [{"seed": seed, **row} for row in rows]


def first_step(rows: Sequence[Row], name: str, beyond: float, rises: bool) -> float | None:
    """Return the step of the first reading beyond a value; None if there is none."""
    for row in rows:
        if (row[name] > beyond) if rises else (row[name] < beyond):
            return float(row["step"])
    return None


def summary(rows: Sequence[Row]) -> Row:
    """Return when each sign of over-optimization came in a run, and where the run ended."""
    start = rows[0]
    end = rows[-1]
    return {
        "ratio_step": first_step(rows, "ratio", RATIO, rises=True),
        "distance_step": first_step(rows, "distance", DISTANCE * start["distance"], rises=True),
        "fall_step": first_step(rows, "accuracy", start["accuracy"] - FALL, rises=False),
        **{f"end_{name}": end[name] for name in FIGURES},
        "last_step": end["step"],
    }


def table(rows: Sequence[Row]) -> str:
    """Return a line a run as Markdown."""
    heads = [
        "arm",
        "seed",
        f"ratio > {RATIO}",
        f"distance > {DISTANCE:g} × start",
        f"judge {FALL} down",
        "steps",
        "ratio there",
        "distance",
        "reward",
        "accuracy",
    ]
    lines = []
    for (arm, seed), run in by_run(rows).items():
        figures = summary(run)
        steps = [figures[name] for name in ("ratio_step", "distance_step", "fall_step")]
        cells = ["–" if step is None else f"{step:.0f}" for step in steps]
        ends = [f"{figures[f'end_{name}']:.3f}" for name in FIGURES]
        lines.append([arm, str(seed), *cells, f"{figures['last_step']:.0f}", *ends])
    return markdown(heads, lines)


def by_run(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """Return the readings of each arm and seed."""
    runs: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["arm"], row["seed"]), []).append(row)
    return runs


def finish_table(rows: Sequence[Row]) -> str:
    """Return the means over seeds of each τ as Markdown."""
    lines = []
    for tau in TAUS:
        chosen = [row for row in rows if row["tau"] == tau]
        means = [statistics.mean(row[name] for row in chosen) for name in FINISH_COLUMNS]
        lines.append([f"{tau:g}", *(f"{mean:.3f}" for mean in means)])
    return markdown(["τ", *FINISH_COLUMNS], lines)


def picture(rows: Sequence[Row], file: Path) -> None:
    """Draw each arm's figures over the steps, a line a seed."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    size = (1.9 * len(arms), 5.6)
    figure, axes = plt.subplots(
        len(FIGURES), len(arms), sharex="col", sharey="row", figsize=size, squeeze=False
    )
    for (arm, _), run in by_run(rows).items():
        for place, name in enumerate(FIGURES):
            steps = [row["step"] for row in run]
            axes[place, arms.index(arm)].plot(steps, [row[name] for row in run])
    for column, arm in enumerate(arms):
        axes[0, column].set_title(arm, fontsize=9)
        axes[-1, column].set_xlabel("steps")
    for place, name in enumerate(FIGURES):
        axes[place, 0].set_ylabel(name)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def write(out: Path, rows: Sequence[Row], finish_rows: Sequence[Row]) -> None:
    """Write everything that was measured so far."""
    write_csv(out / "readings.csv", rows)
    text = table(rows)
    if finish_rows:
        write_csv(out / "finish.csv", finish_rows)
        text += "\n" + finish_table(finish_rows)
    (out / "table.md").write_text(text, encoding="utf-8")
    picture(rows, out / "curves.png")


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--out", type=Path, default=Path("runs/norm_ratio"))
    return parser.parse_args()


def main() -> int:
    """Run all arms and seeds, and write the tables after each."""
    options = parse()
    rows: list[Row] = []
    finish_rows: list[Row] = []

    def command_of(arm: str, seed: int) -> list[str]:
        return command(arm, seed, options.out)

    for run in made(options.arms, range(options.seeds), options.out, command_of):
        rows += readings(*run)
        if run.arm == FINISHED:
            finish_rows += finishes(run.seed, run.folder)
        write(options.out, rows, finish_rows)
    print((options.out / "table.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
