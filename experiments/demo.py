"""The main jobs in miniature: a reward from 300 bold digits used in five ways, and a text reward
that is hacked, or not.

Run by `make demo`. Nothing is downloaded; a few minutes on one thread, of which one or two train
the two base generators, which are kept for the next time. The report lies in runs/demo/report.html.
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
# of the text half; with seed 0 plain RLHF holds for 250 steps, see docs/studies/hardening.md
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
    """Run all ways; those of one base generator share the stages before they part. Then write one
    report.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--only", nargs="+", choices=WAYS, default=list(WAYS), help="some of the ways"
    )
    options = parser.parse_args()
    out = options.out
    start = time.monotonic()
    for number, name in enumerate(options.only, 1):
        print(
            f"\n[{number}/{len(options.only)}] {name}  ({time.monotonic() - start:.0f} s)",
            flush=True,
        )
        configs = [f"--config={CONFIGS / word}" for word in WAYS[name] if word.endswith(".yaml")]
        overrides = [word for word in WAYS[name] if word.startswith("--")]
        code = rewardlab(
            [
                "rounds",
                *configs,
                *overrides,
                f"--out={out / name}",
                f"--stages={out / 'stages'}",
                "--resume",
            ]
        )
        if code:
            return code
    code = rewardlab(
        ["report", *(str(out / name) for name in options.only), "--out", str(out / "report.html")]
    )
    print(
        f"\nDone in {time.monotonic() - start:.0f} s. The report: {(out / 'report.html').resolve()}"
    )
    return code


if __name__ == "__main__":
    raise SystemExit(main())
