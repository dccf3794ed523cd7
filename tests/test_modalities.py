"""Every game on every modality with every loop: shipped configs on tiny models, and each moves its
score.

A cell's gain is the mean score of 96 images or 256 texts after post-training less that before, by
the reward that its rounds have fitted. It has to be above what the same config gains where scores
are shuffled before post-training reads them, which leaves no information in them: above their mean
(or 0) by three standard deviations over 5 seeds. Those were measured once, on one thread, by

    OMP_NUM_THREADS=1 python tests/test_modalities.py

which prints the table below (or the rows of the cells that it is given). Cells of words were
measured anew since nothing ends an unfinished response. A loop's own figures, such as DPO's margin,
are not asked: they can grow while the score falls.
"""

import json
import logging
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml

from rewardlab.commands.rounds import build
from rewardlab.rewards import Reward, Saved
from rewardlab.rounds import RunFolder, adv_rm, gan_rm
from rewardlab.rounds.post_training import train_policy
from rewardlab.seeds import derive
from rewardlab.types import Samples

CONFIGS = Path(__file__).parents[1] / "configs" / "matrix"
GAMES, MODALITIES, LOOPS = (
    ("gan_rm", "adv_rm"),
    ("image", "text"),
    ("best_of_n", "sft", "dpo", "ppo"),
)
CELLS = [f"{game}-{modality}-{loop}" for game in GAMES for modality in MODALITIES for loop in LOOPS]
CELLS += [f"{game}-image-velocity" for game in GAMES]  # a loop of denoisers alone
VIDEOS = ("video", "wan")  # AnimateDiff and Wan
CELLS += [f"gan_rm-{modality}-{loop}" for modality in VIDEOS for loop in LOOPS]
OVERLAYS = [f"{modality}_{loop}.yaml" for modality in (*MODALITIES, *VIDEOS) for loop in LOOPS]
SEEDS = 5
# the gain with seed 0; and with shuffled scores its mean and standard deviation over 5 seeds
MEASURED = {
    "gan_rm-image-best_of_n": (2.97, -0.10, 0.17),
    "gan_rm-image-sft": (3.38, -0.17, 0.70),
    "gan_rm-image-dpo": (2.64, 0.12, 0.52),
    "gan_rm-image-ppo": (3.27, -0.14, 0.60),
    "gan_rm-text-best_of_n": (0.83, -0.01, 0.08),
    "gan_rm-text-sft": (0.36, -0.02, 0.06),
    "gan_rm-text-dpo": (0.60, -0.02, 0.11),
    "gan_rm-text-ppo": (0.50, -0.06, 0.13),
    "adv_rm-image-best_of_n": (3.02, -0.06, 0.19),
    "adv_rm-image-sft": (3.50, -0.32, 0.62),
    "adv_rm-image-dpo": (2.74, 0.14, 0.37),
    "adv_rm-image-ppo": (3.45, -0.05, 0.42),
    "adv_rm-text-best_of_n": (1.27, 0.00, 0.05),
    "adv_rm-text-sft": (0.70, -0.05, 0.05),
    "adv_rm-text-dpo": (1.31, -0.04, 0.10),
    "adv_rm-text-ppo": (1.36, -0.15, 0.08),
    "gan_rm-image-velocity": (3.70, 0.35, 0.67),
    "adv_rm-image-velocity": (3.97, 0.09, 0.55),
    "gan_rm-video-best_of_n": (2.08, -0.54, 0.32),
    "gan_rm-video-sft": (2.54, 0.72, 0.51),
    "gan_rm-video-dpo": (3.14, 0.72, 0.47),
    "gan_rm-video-ppo": (2.14, -0.17, 0.44),
    "gan_rm-wan-best_of_n": (3.52, 0.19, 0.63),
    "gan_rm-wan-sft": (2.17, 0.05, 0.28),
    "gan_rm-wan-dpo": (0.99, 0.15, 0.16),
    "gan_rm-wan-ppo": (1.70, 0.05, 0.32),
}


class Shuffled(Reward, Saved):
    """The reward's scores, each given to another sample of the batch: as large, and with nothing to
    learn from.
    """

    def __init__(self, reward, seed):
        super().__init__()
        self.reward, self.seed, self.calls = reward, seed, 0

    def forward(self, samples):
        return self.members(samples).mean(1)

    def members(self, samples):
        self.calls += 1
        generator = torch.Generator().manual_seed(derive(self.seed, "shuffled", self.calls))
        return self.reward.members(samples)[torch.randperm(len(samples), generator=generator)]

    def save_pretrained(self, folder):
        self.reward.save_pretrained(folder)


def run(cell, out, *overrides):
    """Run a cell's config into the folder `out`."""
    game, modality, loop = cell.split("-")
    files = [CONFIGS / f"{game}_{modality}.yaml", CONFIGS / f"{modality}_{loop}.yaml"]
    built = build([*(f"--config={file}" for file in files), f"--out={out}", *overrides])
    built.rounds.run(RunFolder.open(built.out, built.config))


def gain(out):
    """By how much post-training has moved the mean score, by the reward of the last round."""
    rounds = json.loads((out / "results.json").read_text(encoding="utf-8"))["rounds"]
    separation = rounds[max(rounds, key=int)]["separation"]
    return separation["score_after"]["mean"] - separation["score_before"]["mean"]


def threshold(cell):
    """What three standard deviations above no information are."""
    _, mean, deviation = MEASURED[cell]
    return max(mean, 0) + 3 * deviation


# seconds of rollouts through layers of motion, of training through Wan's autoencoder's frames
SLOW = ("gan_rm-video-ppo", "gan_rm-wan-sft", "gan_rm-wan-dpo", "gan_rm-wan-ppo")
QUICK = [cell for cell in CELLS if cell not in SLOW]
NIGHTLY = [pytest.param(cell, marks=pytest.mark.nightly) for cell in SLOW]


@pytest.mark.parametrize("cell", [*QUICK, *NIGHTLY])
def test_modality(cell, tmp_path):
    out = tmp_path / "run"
    run(cell, out)
    assert gain(out) > threshold(cell)
    check_run_folder(out, trained="best_of_n" not in cell)


def test_refl_of_videos_raises_the_reward_by_its_gradient(tmp_path):
    """Shuffled scores have the same gradient, so here the gain alone is asked: 3.5 when measured."""
    out = tmp_path / "run"
    run("gan_rm-video-refl", out)
    assert gain(out) > 1
    check_run_folder(out, trained=True)


def check_run_folder(out, trained):
    """Check that what the folder of a run promises is there."""
    for name in ("config.yaml", "run.json", "results.json", "timing.json", "policy", "reward"):
        assert (out / name).exists(), name
    assert json.loads((out / "run.json").read_text(encoding="utf-8")).keys() >= {
        "versions",
        "device",
        "seeds",
        "fingerprints",
    }
    assert not any((out / ".scratch").glob("*"))
    stages = {folder.name for folder in (out / "stages").iterdir() if folder.is_dir()}
    timing = json.loads((out / "timing.json").read_text(encoding="utf-8"))
    assert stages == timing.keys() - {"cost"}
    assert len(list((out / "stages").glob("*-post-train-*/metrics.csv"))) == trained


def test_all_cells_were_measured():
    assert list(MEASURED) == CELLS
    assert len(CELLS) == 26
    assert all(measured[0] > threshold(cell) for cell, measured in MEASURED.items())


@pytest.mark.parametrize("file", sorted([*OVERLAYS, "video_refl.yaml"]))
def test_cells_differ_in_their_post_training_alone(file):
    content = yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8"))
    assert list(content) == ["rounds"]
    assert list(content["rounds"]) == ["init_args"]
    assert list(content["rounds"]["init_args"]) == ["post_train"]


def test_shuffled_scores_are_the_same_ones_in_other_places():
    from rewardlab.rewards.rules import Length

    samples = Samples([""] * 50, ["word " * number for number in range(50)])
    scores = Shuffled(Length(), seed=0)(samples)
    assert sorted(scores.tolist()) == sorted(Length()(samples).tolist())
    assert abs(torch.corrcoef(torch.stack([scores, Length()(samples)]))[0, 1]) < 0.5


def shuffled_gain(cell, folder, seed):
    """A cell's gain where post-training reads shuffled scores."""

    def blind(state, how, reward, *rest):
        train_policy(state, how, Shuffled(reward, seed), *rest)

    out = Path(folder) / f"{cell}-{seed}"
    with patch.object(gan_rm, "train_policy", blind), patch.object(adv_rm, "train_policy", blind):
        run(cell, out, f"--experiment.seed={seed}")
    return gain(out)


def measure(cells):
    """Print MEASURED for these cells."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for cell in cells:
        with tempfile.TemporaryDirectory() as folder:
            run(cell, Path(folder) / "run")
            gains = [shuffled_gain(cell, folder, seed) for seed in range(SEEDS)]
            figures = gain(Path(folder) / "run"), statistics.mean(gains), statistics.stdev(gains)
        print(f'    "{cell}": ({", ".join(f"{figure:.2f}" for figure in figures)}),', flush=True)


if __name__ == "__main__":
    measure(sys.argv[1:] or CELLS)
