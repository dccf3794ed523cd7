"""The main jobs in miniature, on digits and on text.

A reward from 300 bold digits is used in five ways, and a text reward is hacked, or not.

Run by `make demo`. Nothing is downloaded. It takes a few minutes on one thread, of which one or two
train the two base generators, which are kept for the next time. The report is
runs/demo/report.html.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rewardlab.cli import main as rewardlab

CONFIGS = Path(__file__).parents[1] / "configs"
INIT = "--rounds.init_args."
BETA = f"{INIT}post_train.loop.init_args.beta"
DIGITS = "gan_rm/digits.yaml"
TOPICS = "adv_rm/topics.yaml"
# Seed of the text half; with seed 0 plain RLHF holds for 250 steps, see docs/studies/hardening.md.
SEED = "--experiment.seed=1"
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
    "rlhf_plain": [TOPICS, SEED, f"{INIT}rounds=0"],
    "rlhf_after_attacks": [TOPICS, SEED],
    "rlhf_novelty": [TOPICS, SEED, "adv_rm/topics_novelty.yaml"],
    "rlhf_kl": [TOPICS, SEED, f"{INIT}rounds=0", f"{INIT}post_train.loop.init_args.kl_weight=0.25"],
}


def main() -> int:
    """Run all ways, then write one report.

    Ways of one base generator share the stages before they part.
    """
    options = parser().parse_args()
    start = time.monotonic()
    for number, name in enumerate(options.only, 1):
        seconds = time.monotonic() - start
        print(f"\n[{number}/{len(options.only)}] {name}  ({seconds:.0f} s)", flush=True)
        code = rewardlab(["rounds", *arguments(name, options.out)])
        if code:
            return code
    report = options.out / "report.html"
    runs = [str(options.out / name) for name in options.only]
    code = rewardlab(["report", *runs, "--out", str(report)])
    print(f"\nDone in {time.monotonic() - start:.0f} s. The report: {report.resolve()}")
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--only", nargs="+", choices=WAYS, default=list(WAYS), help="some of the ways"
    )
    return parser


def arguments(name: str, out: Path) -> list[str]:
    """Return the arguments of `rewardlab rounds` for one way."""
    configs = []
    overrides = []
    for argument in WAYS[name]:
        if argument.endswith(".yaml"):
            configs.append(f"--config={CONFIGS / argument}")
        else:
            overrides.append(argument)
    folders = [f"--out={out / name}", f"--stages={out / 'stages'}"]
    return [*configs, *overrides, *folders, "--resume"]


if __name__ == "__main__":
    raise SystemExit(main())
