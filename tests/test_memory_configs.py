"""The configs of real generators train a step on tiny weights of the real classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rewardlab.cli import main
from rewardlab.commands.plan import config_tree
from rewardlab.data import save_pairs
from rewardlab.planning.architecture import Architecture
from rewardlab.policies import DiffusionPolicy
from rewardlab.testing.tiny_images import tiny_stable_diffusion, tiny_stable_diffusion_xl
from rewardlab.testing.tiny_pipelines import tiny_flux, tiny_qwen_image, tiny_stable_diffusion_3
from rewardlab.testing.tiny_videos import tiny_wan
from rewardlab.types import PreferencePairs, Samples

CONFIGS = Path(__file__).parents[1] / "configs" / "memory"
MAKERS = {
    "sd15": tiny_stable_diffusion,
    "sdxl": tiny_stable_diffusion_xl,
    "sd35": tiny_stable_diffusion_3,
    "flux": tiny_flux,
    "qwen_image": tiny_qwen_image,
    "wan": tiny_wan,
}
POLICY = "--model.init_args.policy.init_args"


@pytest.mark.parametrize("name", MAKERS)
def test_a_config_trains_a_step(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MAKERS[name](tmp_path / "tokenizer").save_pretrained("pipeline")
    shape = (2, 5, 3, 16, 16) if name == "wan" else (2, 3, 16, 16)
    prompts = ["a cat", "a dog"]
    pairs = PreferencePairs(
        Samples(prompts, torch.rand(shape)), Samples(prompts, torch.rand(shape))
    )
    save_pairs("pairs", pairs)
    words = ["fit", "--config", str(CONFIGS / f"{name}.yaml"), "--out", "run"]
    words += ["--experiment.policy_path=pipeline", f"{POLICY}.size=16"]
    words += ["--trainer.max_steps=1", "--trainer.accumulate_grad_batches=1"]
    words += ["--trainer.accelerator=cpu", "--report=false"]
    if name == "wan":
        words.append(f"{POLICY}.frames=5")
    assert main(words) == 0
    trained = DiffusionPolicy(tmp_path / "run" / "policy", size=16)
    assert trained.denoiser is not None


@pytest.mark.parametrize("name", MAKERS)
def test_the_plan_reads_a_configs_own_name(name):
    """Without running it, which takes a minute for the larger ones: see the comments."""
    tree = config_tree(["--config", str(CONFIGS / f"{name}.yaml")])
    policy = tree["model"]["init_args"]["policy"]["init_args"]
    assert Architecture.of(policy["pipeline"]).pipeline
    comment = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    assert "a device needs" in comment


def test_dpo_of_a_flux_fits_24_gib_by_plan(capsys):
    """The target: an adapter on FLUX.1 at 512 pixels, one pair a step."""
    config = str(CONFIGS / "flux.yaml")
    assert main(["plan", "--config", config, "--gpu-memory", "24"]) == 0
    printed = capsys.readouterr().out
    assert "Fits 24 GiB, by plan." in printed
    for line in printed.splitlines():  # the comment of the config is what is printed
        if "a device needs" in line:
            assert line in (CONFIGS / "flux.yaml").read_text(encoding="utf-8")
