"""The face half of `make demo-real`: every way of using one reward, its figures and its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jobs import WORKERS, Job, run_jobs
from real.detector import FaceDetector
from real.expression import Expression
from real.faces import face_policy
from real.smiles import witness
from real.tables import markdown
from rewardlab import load_policy, load_reward
from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation
from rewardlab.evaluation.evaluation import mean_figure
from rewardlab.policies import Generator, LatentPolicy
from rewardlab.rewards.scoring import scores_of
from rewardlab.runs.layout import POLICY_FOLDER, REWARD_FOLDER
from rewardlab.types import images_of

CONFIGS = Path(__file__).parent / "configs"
BASE = "base"
GRIN = "grin"
COLUMNS = 10  # faces of a row of the picture
SAMPLES = 192  # that the rounds judge, see smiles.yaml
Figures = dict[str, Any]


class Way(NamedTuple):
    """A way of using the reward.

    Attributes:
        title: what the picture calls it.
        configs: that `rewardlab rounds` composes after smiles.yaml; none for what is no round.
    """

    title: str
    configs: tuple[str, ...]


WAYS = {
    BASE: Way("the generator", ()),
    "best_of_n": Way("best of 8", ("way_best_of_n.yaml",)),
    "sft": Way("SFT on the best", ("way_sft.yaml",)),
    "dpo": Way("DPO", ("way_dpo.yaml",)),
    "ppo_guarded": Way("PPO, guarded", ("way_ppo.yaml", "way_guarded.yaml")),
    "ppo": Way("PPO", ("way_ppo.yaml",)),
    "refl": Way("all weights, reward", ("way_refl.yaml",)),
    GRIN: Way("all weights, judge", ()),
}
COLUMN_TITLES = {
    "reward": "reward",
    "happy": "happy, by the expression net",
    "witness": "witness",
    "face": "a face, by the detector",
    "diversity": "diversity",
    "distance": "distance from targets",
    "kl": "KL, nats",
}


def run_faces(
    out: Path, seeds: Sequence[int], ways: Sequence[str], workers: int = WORKERS
) -> Figures:
    """Run the ways for each seed; write figures and the picture, and return the figures.

    A run that stands already is not run again.

    Raises:
        InputError: if a run fails; its log says why.
    """
    jobs = []
    for seed in seeds:
        for name in ways:
            folder = out / f"seed{seed}" / name
            if name != BASE and not _stands(folder):
                log = out / f"seed{seed}" / f"{name}.log"
                command = command_of(name, folder, out / "stages", seed)
                jobs.append(Job(f"seed {seed}, {WAYS[name].title}", command, log))
    if run_jobs(jobs, workers):
        raise InputError("A way of using the reward failed; its log has been named above.")
    figures: dict[str, dict[str, Figures]] = {}
    for seed in seeds:
        figures[str(seed)] = read_figures(out / f"seed{seed}", ways)
    summary = {"seeds": figures, "mean": over_seeds(figures)}
    (out / "faces.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    draw(out / "smiles.png", out / f"seed{seeds[0]}", ways, summary["mean"])
    return summary


def command_of(name: str, folder: Path, stages: Path, seed: int) -> list[str]:
    """Return the arguments of `rewardlab` that run one way, or go on with it."""
    flags = [f"--experiment.seed={seed}", f"--out={folder}"]
    if (folder / "run.json").exists():
        flags.append("--resume")
    if name == GRIN:
        return ["fit", f"--config={CONFIGS / 'grin.yaml'}", *flags]
    configs = [f"--config={CONFIGS / file}" for file in ("smiles.yaml", *WAYS[name].configs)]
    return ["rounds", *configs, *flags, f"--stages={stages}"]


def _stands(folder: Path) -> bool:
    return (folder / POLICY_FOLDER).exists() or (folder / REWARD_FOLDER).exists()


def read_figures(folder: Path, ways: Sequence[str]) -> dict[str, Figures]:
    """Return each way's figures of one seed, with their 95 % intervals."""
    figures: dict[str, Figures] = {}
    for name in ways:
        if name not in (BASE, GRIN):
            results = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
            figures[name] = _after(results)
            figures.setdefault(BASE, _before(results))
            figures[name]["kl"] = _kl(folder / name / POLICY_FOLDER)
    if GRIN in ways:
        figures[GRIN] = _judged(folder)
    return {name: figures[name] for name in ways if name in figures}


def _after(results: Figures) -> Figures:
    after = results["rounds"]["1"]
    figures = {"reward": after["separation"]["score_after"], **after["judged"]}
    stopped = after.get("post_train", {}).get("guard_stopped_at")
    return figures | ({"guard_stopped_at": stopped[0]} if stopped else {})


def _before(results: Figures) -> Figures:
    separation = results["rounds"]["1"]["separation"]
    return {"reward": separation["score_before"], **results["rounds"]["0"]["judged"]}


def _kl(folder: Path) -> Figures | None:
    """Return the exact KL from the base policy in nats; None where there is none.

    Best of n has no density, and the KL of latents says nothing once the generator's own weights
    are trained.
    """
    policy = load_policy(folder, trust=True)
    if not isinstance(policy, LatentPolicy) or policy.train_generator:
        return None
    return {"mean": policy.kl([""], face_policy()).item()}


def _judged(folder: Path) -> Figures:
    """Judge the generator that climbed the judge, as the rounds judge the others."""
    judges = {"happy": Expression(), "witness": witness(), "face": FaceDetector()}
    evaluation = Evaluation(samples=SAMPLES, judges=judges, seed=0)
    policy = load_policy(folder / GRIN / POLICY_FOLDER, trust=True)
    samples = evaluation.draw(policy, [""])
    with torch.no_grad():
        figures = evaluation.judge(samples, _held_out())
        reward = _reward_of(folder)
        if reward is not None:
            figures["reward"] = mean_figure(scores_of(reward, samples))
    return figures


def _held_out() -> Any:
    from real.smiles import smiling_targets

    return smiling_targets().target_samples("held_out")


def _reward_of(folder: Path) -> Any:
    """Return the reward of a seed, that all its ways share."""
    for path in sorted(folder.glob(f"*/{REWARD_FOLDER}")):
        return load_reward(path)
    return None


def over_seeds(figures: Mapping[str, Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the mean over seeds with the lowest and the highest seed, a way and a figure.

    Of a single seed the ends are its 95 % interval, where it has one.
    """
    summary: dict[str, Figures] = {}
    for name in WAYS:
        columns: Figures = {}
        for column in COLUMN_TITLES:
            of_seeds = _figures_of(figures, name, column)
            if of_seeds:
                columns[column] = _mean_of(of_seeds)
        if columns:
            summary[name] = columns
    return summary


def _mean_of(of_seeds: Sequence[Figures]) -> Figures:
    if len(of_seeds) == 1:
        return dict(of_seeds[0])
    values = [figure["mean"] for figure in of_seeds]
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}


def _figures_of(
    figures: Mapping[str, Mapping[str, Figures]], name: str, column: str
) -> list[Figures]:
    found = []
    for of_seed in figures.values():
        figure = of_seed.get(name, {}).get(column)
        if figure is not None:
            found.append(figure)
    return found


def table(summary: Mapping[str, Figures]) -> str:
    """Return a Markdown table: a row a way; see `over_seeds` for the ends of intervals."""
    rows = {WAYS[name].title: figures for name, figures in summary.items()}
    return markdown(rows, COLUMN_TITLES)


def draw(path: Path, folder: Path, ways: Sequence[str], summary: Mapping[str, Figures]) -> None:
    """Write the picture: a row of faces a way, of the same noise in each column."""
    import matplotlib.pyplot as plt

    evaluation = Evaluation(samples=COLUMNS, seed=0)
    rows = {}
    for name in ways:
        rows[name] = evaluation.draw(_generator(name, folder), [""])
    figure, axes = plt.subplots(len(rows), 1, figsize=(8.6, 0.66 * len(rows)), squeeze=False)
    for axis, (name, samples) in zip(axes.flat, rows.items(), strict=True):
        axis.imshow(_strip(images_of(samples, "draw")))
        axis.set_axis_off()
        axis.text(-8, 32, _label(name, summary), ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.19, right=0.995, top=0.99, bottom=0.01, hspace=0.04)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _generator(name: str, folder: Path) -> Generator:
    """Return what a way draws from."""
    if name == BASE:
        return face_policy()
    policy: Generator = load_policy(folder / name / POLICY_FOLDER, trust=True)
    return policy


def _label(name: str, summary: Mapping[str, Figures]) -> str:
    figures = summary[name]
    reward = f"reward {figures['reward']['mean']:.1f}, " if "reward" in figures else ""
    return f"{WAYS[name].title}\n{reward}happy {figures['happy']['mean']:.2f}"


def _strip(images: Tensor) -> Any:
    """Return images [B, 3, H, W] side by side, float [H, B·W, 3]."""
    return torch.cat(list(images), dim=2).permute(1, 2, 0).numpy()
