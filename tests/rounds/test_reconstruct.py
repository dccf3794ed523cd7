"""Rounds pass targets through their own policy's autoencoder, and look for its signature."""

import json
import logging
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer

from rewardlab import DiffusionPolicy, Sampler, TargetSamples, VisionReward
from rewardlab.data import load_samples
from rewardlab.rounds import FitReward, GANRMRounds, PostTrain, RunFolder
from rewardlab.runs.journal import read_diagnostics
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_tower
from rewardlab.types import Samples


def pictures(size, channels):
    generator = torch.Generator().manual_seed(0)
    return Samples([""] * 10, torch.rand(10, channels, size, size, generator=generator))


def play(folder, pipeline, samples, **options):
    """Run a round that fits a reward and filters, and return its separators."""
    policy = DiffusionPolicy(pipeline, sampler=Sampler(steps=2))
    trainer = partial(Trainer, accelerator="cpu", max_epochs=1, enable_progress_bar=False)
    GANRMRounds(
        policy=policy,
        reward=VisionReward(tiny_tower(image_size=samples.outputs.shape[-1]), width=8),
        targets=TargetSamples(
            samples, held_out=3, channels=samples.outputs.shape[1], batch_size=8, **options
        ),
        prompts=[""],
        fit=FitReward(trainer=trainer),
        post_train=PostTrain(candidates=2),
    ).run(RunFolder.open(folder, {"game": 1}))
    found = [entry for entry in read_diagnostics(folder) if "auc" in entry["figures"]]
    assert [entry["stage"] for entry in found] == ["1-reward"]
    assert found[0]["figures"]["targets"] == {"train": 7, "held_out": 3}
    return policy, found[0]


@pytest.fixture
def pipeline(tmp_path):
    return tiny_stable_diffusion(tmp_path)


def test_the_signature_is_looked_for_where_there_is_an_autoencoder(tmp_path, pipeline):
    _, found = play(tmp_path / "latent", pipeline, pictures(16, 3))
    assert found["level"] == "warning"
    assert found["figures"]["auc"]["autoencoder"] > 0.9
    assert "autoencoder" in found["sentence"]
    _, found = play(tmp_path / "pixels", tiny_diffusion(classes=0), pictures(8, 1))
    assert "autoencoder" not in found["figures"]["auc"]


def test_reconstruct_passes_targets_through_the_policys_autoencoder(tmp_path, pipeline):
    samples = pictures(16, 3)
    policy, _ = play(tmp_path / "run", pipeline, samples, reconstruct=True)
    (folder,) = (tmp_path / "run" / "stages").glob("0-targets-*[0-9a-f]")
    seen = load_samples(folder / "samples").outputs
    assert len(seen) == 3
    vae = policy.pipeline.vae
    with torch.no_grad():  # without the noise of the encoder, which is small beside the change
        decoded = vae.decode(vae.encode(samples.outputs * 2 - 1).latent_dist.mean).sample
    decoded = (decoded / 2 + 0.5).clamp(0, 1)
    nearest = torch.cdist(seen.flatten(1), decoded.flatten(1)).min(1).values
    farther = torch.cdist(seen.flatten(1), samples.outputs.flatten(1)).min(1).values
    assert (nearest < 0.7 * farther).all()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["rounds"]["1"]


def test_nothing_is_looked_for_twice_and_a_resumed_run_keeps_it(tmp_path, pipeline):
    _, found = play(tmp_path / "run", pipeline, pictures(16, 3))
    logging.getLogger("rewardlab").warning("outside of a run")
    assert read_diagnostics(tmp_path / "run").count(found) == 1
