"""Processor seconds of a PPO step of the text world: plain RLHF on the help topics.

    OMP_NUM_THREADS=1 python experiments/benchmarks/ppo_step.py
    OMP_NUM_THREADS=1 PYTHONPATH=OTHER python experiments/benchmarks/ppo_step.py

The second line measures another checkout of the library, with its own configs. Seconds of two runs
are never compared but where both took turns on an idle machine, several times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import rewardlab
from rewardlab.cli import main as command
from rewardlab.training import PPO

STEPS = 80
WARMUP = 10
POST_TRAIN = "--rounds.init_args.post_train"


def main() -> int:
    """Run the steps, and print the median of a step and where the library stands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    root = Path(rewardlab.__file__).parents[1]
    ends: list[float] = []
    training_step = PPO.training_step

    def timed(self: PPO, *batch: Any) -> None:
        training_step(self, *batch)
        ends.append(time.process_time())

    PPO.training_step = timed  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--config={root / 'configs' / 'adv_rm' / 'topics.yaml'}", f"--out={folder}/run"]
        words += ["--rounds.init_args.rounds=0", "--report=false", f"{POST_TRAIN}.callbacks=[]"]
        words += ["--experiment.seed=1", f"{POST_TRAIN}.trainer.init_args.max_steps={STEPS}"]
        code = command(["rounds", *words])
    if code:
        return code
    steps = [after - before for before, after in pairwise(ends[WARMUP:])]
    print(f"{1000 * statistics.median(steps):.1f} ms a step, the median of {len(steps)}; {root}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
