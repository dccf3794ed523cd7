"""Does hardening a reward postpone the collapse of the policy that is trained on it?

Measured on Python's help topics (`rewardlab.embedded.topics`), each arm by the library's own rounds
and the configs that ARMS names. Gold only measures: nothing is trained or chosen by it. A seed
changes the pairs, members' fits, attacks and RLOO; the base policy is one. Writes a run folder an
arm and seed, `runs.csv` (a row a run), `table.md` and `curves.png`; runs that stand are not made
again.

    python experiments/studies/hardening.py --seeds 5 --out runs/hardening
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from rewardlab.cli import main as rewardlab
from rewardlab.embedded import topics
from rewardlab.evaluation.stability import Stability, stability_ratio
from rewardlab.runs import Run, read_runs
from rewardlab.runs.layout import SAMPLES, SAMPLES_FOLDER, stage_name
from rewardlab.storage import load_samples

CONFIGS = Path(__file__).parents[2] / "configs" / "adv_rm"
BASE = ("topics.yaml", "study.yaml")
INIT = "--rounds.init_args."
KL = f"{INIT}post_train.loop.init_args.kl_weight"
COLUMNS = ("peak_gold", "peak_step", "step", "end_gold", "end_kl", "end_variety")
HEADS = ("peak of gold, σ", "step of peak", "step of fall", "gold at the end, σ", "KL there")
WINDOW = 2


@dataclass(frozen=True)
class Arm:
    """What an arm changes of the study's base: config files, then flags."""

    files: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


ARMS = {
    "none": Arm(flags=(f"{INIT}rounds=0",)),
    "paper": Arm(files=("study_paper.yaml",)),
    "pairs": Arm(files=("study_pairs.yaml",)),
    "familiar": Arm(files=("topics_novelty.yaml",)),
    "both": Arm(files=("topics_novelty.yaml", "study_pairs.yaml")),
    "distance": Arm(files=("topics_novelty.yaml",), flags=(f"{INIT}tether.reward_weight=0",)),
    "kl": Arm(flags=(f"{INIT}rounds=0", f"{KL}=0.25")),
}


@dataclass(frozen=True)
class Result:
    """One arm and seed.

    Attributes:
        row: figures for the table, gold in the base policy's deviations above its start.
        stability: when gold fell.
        steps: of the readings.
        gold: [S], in deviations above the start.
        reward: [S], the reward's own score above its start.
    """

    row: dict[str, Any]
    stability: Stability
    steps: list[float]
    gold: list[float]
    reward: list[float]


def command(arm: str, seed: int, out: Path, more: Sequence[str] = ()) -> list[str]:
    """Return the command line of one run, which anyone can repeat by hand."""
    files = [f"--config={CONFIGS / name}" for name in (*BASE, *ARMS[arm].files)]
    folders = [f"--out={out / f'{arm}-{seed}'}", f"--stages={out / 'stages'}", "--resume"]
    return ["rounds", *files, f"--experiment.seed={seed}", *ARMS[arm].flags, *more, *folders]


def measure(arm: str, seed: int, folder: Path) -> Result:
    """Read a finished run."""
    run = read_runs([folder])[0]
    last = max(int(number) for number in run.results["rounds"])
    figures = run.results["rounds"][str(last)]["post_train"]
    fields = dict(figures["stability"]["gold"])
    fields["gold_at_kl"] = {float(kl): gold for kl, gold in fields["gold_at_kl"].items()}
    stability = Stability(**fields)
    readings = readings_of(run, last)
    sigma = base_deviation(run)
    gold = [(reading["gold"] - stability.start) / sigma for reading in readings]
    reward = [reading["reward"] - readings[0]["reward"] for reading in readings]
    row = {
        "arm": arm,
        "seed": seed,
        "peak_gold": (stability.peak_gold - stability.start) / sigma,
        "peak_step": stability.peak_step,
        "step": stability.step,
        "censored": stability.censored,
        "end_gold": statistics.mean(gold[-WINDOW:]),
        "end_kl": readings[-1]["kl"],
        "end_variety": variety(texts_of_run(run, last)),
    }
    return Result(row, stability, [reading["step"] for reading in readings], gold, reward)


def base_deviation(run: Run) -> float:
    """Return the standard deviation of gold over the base policy's responses."""
    samples = load_samples(_stage(run, 0, SAMPLES) / SAMPLES_FOLDER)
    return topics.Gold()(samples).std().item()


def variety(texts: Sequence[str]) -> float:
    """Return the share of different pairs of neighboring words among all pairs in all responses.

    Gold sees each response alone, so a policy that says one thing everywhere may please it.
    """
    pairs = []
    for text in texts:
        pairs += pairwise(text.split())
    return len(set(pairs)) / max(len(pairs), 1)


def table(results: Sequence[Result]) -> str:
    """Return each arm's mean ± standard deviation over seeds, as Markdown."""
    heads = ["arm", "seeds", *HEADS, "variety there", "still up", "ratio to none"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    arms = dict.fromkeys(result.row["arm"] for result in results)
    none = [result.stability for result in results if result.row["arm"] == "none"]
    for arm in arms:
        chosen = [result for result in results if result.row["arm"] == arm]
        cells = [spread([result.row[name] for result in chosen]) for name in COLUMNS]
        still_up = sum(result.row["censored"] for result in chosen)
        ratio = ratio_to([result.stability for result in chosen], none)
        row = [arm, str(len(chosen)), *cells, str(still_up), ratio]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 0 if max(map(abs, values)) > 10 else 2
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def ratio_to(runs: Sequence[Stability], none: Sequence[Stability]) -> str:
    """Return the ratio of the median steps of fall with its interval, where seeds allow one."""
    if min(len(runs), len(none)) < 2:
        return ""
    ratio = stability_ratio(runs, none)
    bound = "" if ratio.bound == "exact" else f"{ratio.bound} "
    return f"{bound}{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def write(out: Path, results: Sequence[Result]) -> None:
    """Write everything that was measured so far."""
    with (out / "runs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(results[0].row))
        writer.writeheader()
        writer.writerows(result.row for result in results)
    (out / "table.md").write_text(table(results), encoding="utf-8")
    picture(results, out / "curves.png")


def picture(results: Sequence[Result], file: Path) -> None:
    """Draw gold and the reward of each arm, a line a seed."""
    arms = list(dict.fromkeys(result.row["arm"] for result in results))
    size = (3.2 * len(arms), 5)
    figure, axes = plt.subplots(2, len(arms), sharex=True, figsize=size, squeeze=False)
    for result in results:
        column = arms.index(result.row["arm"])
        axes[0, column].plot(result.steps, result.gold, label=f"seed {result.row['seed']}")
        axes[1, column].plot(result.steps, result.reward)
    for column, arm in enumerate(arms):
        axes[0, column].axhline(0, color="grey", linewidth=0.8)
        axes[0, column].set_title(arm)
        axes[1, column].set_xlabel("RLOO steps")
    axes[0, 0].set_ylabel("gold above its start, σ")
    axes[0, 0].set_ylim(-3, 4)
    axes[1, 0].set_ylabel("reward above its start")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _stage(run: Run, number: int, stage: str) -> Path:
    folder = run.stage(stage_name(number, stage))
    if folder is None:
        raise SystemExit(f"{run.path} has no stage {stage_name(number, stage)}. Was it killed?")
    return folder


def texts_of_run(run: Run, number: int) -> list[str]:
    return list(load_samples(_stage(run, number, SAMPLES) / SAMPLES_FOLDER).outputs)


def readings_of(run: Run, number: int, gold: str = "gold") -> list[dict[str, float]]:
    """Return the rows of a run's readings: step, gold, reward and, where there is one, KL.

    Args:
        run: a finished run.
        number: of the round.
        gold: name of the judge.
    """
    file = _stage(run, number, "post-train") / "metrics.csv"
    columns = {"gold": f"reading/{gold}", "reward": "reading/reward", "kl": "reading/kl"}
    readings = []
    for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
        if row.get(columns["gold"]):
            reading = {name: float(row[key]) for name, key in columns.items() if row.get(key)}
            readings.append({"step": float(row["step"]), **reading})
    return readings


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arms = ["none", "paper", "pairs", "familiar", "both", "distance"]
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=arms)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--out", type=Path, default=Path("runs/hardening"))
    parser.add_argument("flags", nargs="*", help="flags of `rewardlab rounds` for every arm")
    return parser.parse_args()


def main() -> int:
    """Run all arms and seeds, and write the tables after each."""
    options = parse()
    results: list[Result] = []
    for seed in range(options.seeds):
        for arm in options.arms:
            code = rewardlab(command(arm, seed, options.out, options.flags))
            if code:
                return code
            results.append(measure(arm, seed, options.out / f"{arm}-{seed}"))
            print(json.dumps(results[-1].row), flush=True)
            write(options.out, results)
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
