"""The main jobs in miniature, on digits and on text.

A reward from 300 bold digits is used in five ways; a text reward is hacked, or not, over three
seeds: plain RLHF, after attacks, with a correction that learns in the loop, and with two tethers.

Run by `make demo`. Nothing is downloaded. It takes about six minutes on two cores, of which one or
two train the base generators, which are kept for the next time. The reports are
runs/demo/report.html and, over the seeds, runs/demo/seeds.html.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from jobs import WORKERS, Job, run_jobs
from rewardlab.cli import main as rewardlab

CONFIGS = Path(__file__).parents[1] / "configs"
INIT = "--rounds.init_args."
BETA = f"{INIT}post_train.loop.init_args.beta"
DIGITS = "gan_rm/digits.yaml"
TOPICS = "adv_rm/topics.yaml"
WAYS = {
    "best_of_10": [DIGITS, "gan_rm/digits_best_of_n.yaml"],
    "sft": [DIGITS, "gan_rm/digits_sft.yaml"],
    "dpo_beta_5000": [DIGITS, "gan_rm/digits_dpo.yaml"],
    "dpo_beta_100": [DIGITS, "gan_rm/digits_dpo.yaml", f"{BETA}=100"],
    "dpo_beta_100_guarded": [
        DIGITS,
        "gan_rm/digits_dpo.yaml",
        "gan_rm/digits_guard.yaml",
        f"{BETA}=100",
    ],
    "rlhf_plain": [TOPICS, f"{INIT}rounds=0"],
    "rlhf_after_attacks": [TOPICS],
    "rlhf_online": [TOPICS, "menu/online.yaml"],
    "rlhf_novelty": [TOPICS, "adv_rm/topics_novelty.yaml"],
    "rlhf_kl": [TOPICS, f"{INIT}rounds=0", f"{INIT}post_train.loop.init_args.kl_weight=0.25"],
}
TEXT = tuple(name for name in WAYS if name.startswith("rlhf"))
PLAIN = "rlhf_plain"


class TextRun(NamedTuple):
    """The figures of a run of text.

    Attributes:
        before: the judge's mean score before training.
        end: the same after it.
        peak: how far the judge rose above its start at most, in two readings' mean.
        held: whether the judge never fell below its start.
        outputs: number of outputs that were drawn, but for judging.
        seconds: of all stages, but for judging.
    """

    before: float
    end: float
    peak: float
    held: bool
    outputs: float
    seconds: float


def main() -> int:
    """Run all ways, then write the reports.

    Ways of one base generator share the stages before they part; who comes second waits for them.
    """
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    jobs = []
    for name in in_order(run_names(options.only, options.seeds)):
        jobs.append(
            Job(name, ["rounds", *arguments(name, options.out)], options.out / f"{name}.log")
        )
    code = run_jobs(jobs, options.jobs) or report(options.out, options.only, options.seeds)
    if code:
        return code
    print(text_table(options.out, [way for way in options.only if way in TEXT], options.seeds))
    print(f"\nDone in {time.monotonic() - start:.0f} s. The reports: {options.out.resolve()}")
    return 0


def run_names(ways: list[str], seeds: list[int]) -> list[str]:
    """Return the names of the runs: a way of text has one for each seed."""
    names = [way for way in ways if way not in TEXT]
    for seed in seeds:
        names += [f"{way}-{seed}" for way in ways if way in TEXT]
    return names


def in_order(names: list[str]) -> list[str]:
    """Return the names so that the first two runs train the two base generators at once."""
    first = names[:1] + [name for name in names if name.startswith("rlhf")][:1]
    return list(dict.fromkeys([*first, *names]))


def report(out: Path, ways: list[str], seeds: list[int]) -> int:
    """Write the page of all ways, of text with the first seed, and that of text over all seeds."""
    runs = [str(out / name) for name in run_names(ways, seeds[:1])]
    code = rewardlab(["report", *runs, "--out", str(out / "report.html")])
    of_text = [str(out / name) for name in run_names(ways, seeds) if name.startswith("rlhf")]
    if code or len(seeds) < 2 or not of_text:
        return code
    return rewardlab(["report", *of_text, "--out", str(out / "seeds.html")])


def text_table(out: Path, ways: list[str], seeds: list[int]) -> str:
    """Return what the ways of text came to over the seeds, as Markdown; nothing without any.

    Costs are times those of plain RLHF with the same seed, where that was run.
    """
    if not ways:
        return ""
    heads = ["", "judge before", "judge at the end", "peak over its start", "held"]
    heads += ["outputs drawn, times plain", "seconds, times plain"]
    lines = ["", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    plain = {}
    for seed in seeds if PLAIN in ways else []:
        plain[seed] = read_text(out / f"{PLAIN}-{seed}")
    for way in ways:
        runs = {seed: read_text(out / f"{way}-{seed}") for seed in seeds}
        figures = list(runs.values())
        cells = [way, spread([run.before for run in figures]), spread([run.end for run in figures])]
        cells.append(f"{fmean(run.peak for run in figures):.2f}")
        cells.append(f"{sum(run.held for run in figures)} of {len(figures)}")
        outputs = [run.outputs / plain[seed].outputs for seed, run in runs.items() if plain]
        seconds = [run.seconds / plain[seed].seconds for seed, run in runs.items() if plain]
        cells += [f"{fmean(ratios):.2f}" if ratios else "" for ratios in (outputs, seconds)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read_text(folder: Path) -> TextRun:
    """Read the figures of a finished run of text."""
    rounds = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rounds"]
    cost = json.loads((folder / "timing.json").read_text(encoding="utf-8"))["cost"]
    last = rounds[max(rounds, key=int)]
    stability = last["post_train"]["stability"]["gold"]
    return TextRun(
        before=rounds["0"]["judged"]["gold"]["mean"],
        end=last["judged"]["gold"]["mean"],
        peak=stability["peak_gold"] - stability["start"],
        held=stability["censored"],
        outputs=cost["generations"]["all"],
        seconds=cost["seconds"]["all"],
    )


def spread(values: list[float]) -> str:
    """Return the mean with the lowest and the highest value."""
    return f"{fmean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--only", nargs="+", choices=WAYS, default=list(WAYS), help="some of the ways"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the text half")
    parser.add_argument("--jobs", type=int, default=WORKERS, help="runs at once")
    return parser


def arguments(name: str, out: Path) -> list[str]:
    """Return the arguments of `rewardlab rounds` for one run."""
    way, _, seed = name.partition("-")
    configs = []
    overrides = [f"--experiment.seed={seed}"] if seed else []
    for argument in WAYS[way]:
        if argument.endswith(".yaml"):
            configs.append(f"--config={CONFIGS / argument}")
        else:
            overrides.append(argument)
    folders = [f"--out={out / name}", f"--stages={out / 'stages'}"]
    return [*configs, *overrides, *folders, "--resume"]


if __name__ == "__main__":
    raise SystemExit(main())
