"""What policies make of the fitted reward: best of n and RLHF, with each remedy side by side."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from real.likelihood import Likelihood
from real.remedies import ADVERSARIAL, CALIBRATED, PLAIN, remedied
from real.tables import markdown
from real.tellers import teller
from rewardlab import load_policy
from rewardlab.cli import main as rewardlab
from rewardlab.errors import InputError
from rewardlab.evaluation.evaluation import mean_figure
from rewardlab.evaluation.prompts import in_turn
from rewardlab.mining import BestOf
from rewardlab.policies import Generator
from rewardlab.rewards.rules import Length
from rewardlab.rewards.scoring import scores_of
from rewardlab.runs.layout import POLICY_FOLDER
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.prompts import read_prompts
from rewardlab.types import Samples
from studies.hardening import variety

CONFIG = Path(__file__).parent / "configs" / "text_ppo.yaml"
PAR = "PAR"  # the plain reward, whose scores PPO's shaping bounds
REMEDIES = (PLAIN, CALIBRATED, PAR, ADVERSARIAL)
BASE = "the policy"
N = 8  # of best of n
JUDGED = 48  # texts a way
Figures = dict[str, Any]
COLUMN_TITLES = {
    "words": "words",
    "unended": "cut off at the limit",
    "reward": "plain reward",
    "judge": "nats a token, by SmolLM2",
    "variety": "different word pairs",
    "kl": "KL, nats",
    "people": "people agree with the reward",
}


class Setting(NamedTuple):
    """What all ways of one table share.

    Attributes:
        pairs: the file of preferences; None takes the embedded world's.
        count: number of pairs to fit.
        seed: seed of everything.
        policy: folder of the fast policy.
        prompts: file of its prompts.
    """

    pairs: Path | None
    count: int
    seed: int
    policy: Path
    prompts: Path

    def reward(self, remedy: str) -> Any:
        """Return the reward with one of the remedies."""
        pairs = None if self.pairs is None else str(self.pairs)
        return remedied(remedy, pairs, self.count, self.seed)


def run_ways(setting: Setting, out: Path, people: Mapping[str, Figures | None]) -> Figures:
    """Run best of n and RLHF with each remedy; return the figures and the curves of RLHF.

    A run that stands already is not run again.

    Args:
        setting: what the ways share.
        out: folder of the runs.
        people: how often people agree with the reward of each remedy; empty without people.
    """
    judge = Likelihood()
    base = teller(setting.policy)
    generators: dict[str, Generator] = {BASE: base}
    remedy_of: dict[str, str] = {}
    for remedy in (PLAIN, CALIBRATED, ADVERSARIAL):  # PAR ranks a prompt's texts as plain does
        name = f"best of {N}, {remedy}"
        generators[name] = BestOf(base, setting.reward(remedy), N)
        remedy_of[name] = remedy
    curves = {}
    for remedy in REMEDIES:
        print(f"[RLHF] {remedy}", flush=True)
        folder = out / remedy.replace(" ", "_")
        run_rlhf(setting, remedy, folder)
        name = f"RLHF, {remedy}"
        generators[name] = load_policy(folder / POLICY_FOLDER)
        remedy_of[name] = remedy
        curves[remedy] = read_curves(folder)
    figures = {}
    for name, generator in generators.items():
        figures[name] = judged(generator, setting, judge)
        if name in remedy_of:
            figures[name]["people"] = people.get(remedy_of[name])
    for remedy, curve in curves.items():
        figures[f"RLHF, {remedy}"]["kl"] = {"mean": curve["kl"][-1]}
    return {"figures": figures, "curves": curves}


def run_rlhf(setting: Setting, remedy: str, folder: Path) -> None:
    """Train the policy against the reward by the command line of rewardlab, unless that is done.

    Raises:
        InputError: if the command fails; it has said why.
    """
    if (folder / POLICY_FOLDER).exists():
        return
    reward = "--model.init_args.reward.init_args"
    command = ["fit", f"--config={CONFIG}", f"--out={folder}"]
    command += [f"--experiment.policy_path={setting.policy}"]
    command += [f"--experiment.prompts_path={setting.prompts}"]
    command += [f"--experiment.seed={setting.seed}"]
    command += [f"{reward}.count={setting.count}"]
    if remedy == PAR:
        command.append("--model.init_args.shaping.par=1")
    else:
        command.append(f"{reward}.remedy={remedy}")
    if setting.pairs is not None:
        command.append(f"--experiment.data_path={setting.pairs}")
    if (folder / "run.json").exists():
        command.append("--resume")
    if rewardlab(command):
        raise InputError(f"`rewardlab {' '.join(command)}` failed; it has said why above.")


def read_curves(folder: Path) -> dict[str, list[float]]:
    """Return the readings of a run: "step", "words", "plain" and "kl", a number a reading."""
    names = {"words": "reading/words", "plain": "reading/plain", "kl": "reading/kl"}
    curves: dict[str, list[float]] = {name: [] for name in ("step", *names)}
    [path] = folder.glob("**/metrics.csv")
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row.get(names["words"]):
                curves["step"].append(float(row["step"]))
                for name, column in names.items():
                    curves[name].append(float(row[column]))
    return curves


@torch.no_grad()
def judged(generator: Generator, setting: Setting, judge: Likelihood | None) -> Figures:
    """Return the figures of what a generator draws; without a judge when that is SmolLM2 itself."""
    prompts = in_turn(read_prompts(setting.prompts), JUDGED)
    seeds = row_seeds(derive(setting.seed, "judged"), JUDGED)
    samples = generator.generate(prompts, seeds=seeds)
    return figures_of(samples, setting.reward(PLAIN), judge)


def figures_of(samples: Samples, reward: Any, judge: Likelihood | None) -> Figures:
    """Return words, reward, judge and variety of texts."""
    figures: Figures = {
        "words": mean_figure(Length()(samples)),
        "reward": mean_figure(scores_of(reward, samples)),
        "variety": {"mean": variety([str(text) for text in samples.outputs])},
    }
    if "finished" in samples.facts:
        figures["unended"] = {"mean": 1 - samples.facts["finished"].float().mean().item()}
    if judge is not None:
        figures["judge"] = mean_figure(scores_of(judge, samples))
    return figures


def table(figures: Figures) -> str:
    """Return a Markdown table: a row a way, means with their 95 % intervals."""
    return markdown(figures, COLUMN_TITLES)
