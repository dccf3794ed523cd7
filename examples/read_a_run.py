"""Read a run folder: what each round did, and where its samples are.

Without an argument it makes a small run first: one round of GAN-RM on words, in which vowels are
wanted. Prints two lines a round: how well the reward tells held-out targets from the policy's words
(AUC) with its mean score before and after, and a few words. Then writes a page, report.html.

    python examples/read_a_run.py runs/mine
"""

import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from rewardlab.data import load_samples
from rewardlab.embedded import tiny_worlds
from rewardlab.evaluation import Evaluation
from rewardlab.report import write_report
from rewardlab.rounds import FitReward, PostTrain, RunFolder
from rewardlab.rounds import GANRMRounds as Rounds
from rewardlab.runs import read_runs
from rewardlab.training import GANRM, SFT


def make_a_run(path: Path) -> Path:
    """Run one round of GAN-RM in a new folder, as `rewardlab rounds` does from a config."""
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    trainer = partial(pl.Trainer, max_steps=40, max_epochs=-1, **quiet)
    reward_loop = partial(GANRM, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    policy_loop = partial(SFT, optimizer=partial(torch.optim.AdamW, lr=4e-3))
    rounds = Rounds(
        tiny_worlds.text_policy(),
        tiny_worlds.text_reward(heads=2),
        tiny_worlds.vowel_targets(),
        tiny_worlds.PROMPTS,
        fit=FitReward(reward_loop, trainer),
        post_train=PostTrain(policy_loop, trainer, candidates=4, groups=64),
        evaluation=Evaluation(samples=64),
    )
    rounds.run(RunFolder.open(path, {"seed": 0}))
    return path


def main(arguments: list[str]) -> None:
    path = Path(arguments[0]) if arguments else make_a_run(Path("runs/example"))
    [run] = read_runs([path])  # several folders may be read and reported together
    print(f"{run.name}: {len(run.steps)} round, stages in {run.stages}")
    for step in run.steps:
        figures = step.separation  # all of results.json is in run.results
        before, after = figures["score_before"]["mean"], figures["score_after"]["mean"]
        print(f"round {step.number}: AUC {figures['auc_before']['mean']:.2f}, ", end="")
        print(f"score {before:.2f} before and {after:.2f} after")
        samples = load_samples(run.stage(f"{step.number}-samples") / "samples")
        print("its samples:", *samples.outputs[:4])
    print(f"the page: {write_report([path], Path('report.html'))}")


if __name__ == "__main__":
    main(sys.argv[1:])
