"""Every loop trains a tiny Wan against a reward of frames."""

import copy

import pytest
import pytorch_lightning as pl
import torch

from rewardlab.data import PairsData, Prompts, SamplesData
from rewardlab.mining import best_and_worst
from rewardlab.policies import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Framewise, VisionReward
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_tower
from rewardlab.testing.tiny_videos import tiny_wan
from rewardlab.training import DPO, PPO, SFT, ReFL
from rewardlab.training.trainers import SILENT

PROMPTS = ["a walk", "a run"] * 4


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    pipeline = tiny_wan(tmp_path_factory.mktemp("tokenizer"))
    return DiffusionPolicy(pipeline, sampler=Sampler(steps=3), size=16, frames=5)


@pytest.fixture(scope="module")
def reward():
    """Heads that are scaled to the small differences of what the policy makes."""
    return VisionReward(tiny_tower(), heads=2, width=16)


def framewise(reward, policy, pooling):
    scorer = Framewise(copy.deepcopy(reward), pooling, frames=4)
    drawn = policy.generate(PROMPTS * 4, seeds=row_seeds(7, 32))
    scorer.fit_feature_scale(scorer.features(drawn))
    return scorer.eval()


def weights(policy):
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    return torch.cat([weight.detach().flatten() for weight in trained])


@pytest.mark.parametrize("loop", ["sft", "dpo", "ppo", "refl"])
def test_a_loop_trains_a_tiny_wan(loop, policy, reward):
    trained = copy.deepcopy(policy)
    scorer = framewise(reward, policy, "min")
    pairs = best_and_worst(policy, scorer, PROMPTS, k=3, seed=1)
    assert pairs.chosen.outputs.shape[1:] == (5, 3, 16, 16)
    module, data = {
        "sft": lambda: (SFT(trained), SamplesData(pairs.chosen, batch_size=4)),
        "dpo": lambda: (DPO(trained, beta=500.0), PairsData(pairs, batch_size=4)),
        "ppo": lambda: (
            PPO(trained, scorer, samples_per_prompt=2),
            Prompts(PROMPTS, batch_size=4),
        ),
        "refl": lambda: (ReFL(trained, scorer, late=0.34), Prompts(PROMPTS, batch_size=4)),
    }[loop]()
    pl.Trainer(max_steps=2, max_epochs=-1, **SILENT).fit(module, data)
    after = weights(trained)
    assert after.isfinite().all()
    assert not after.equal(weights(policy))
    drawn = trained.eval().generate(PROMPTS[:2], seeds=row_seeds(3, 2))
    assert drawn.outputs.shape == (2, 5, 3, 16, 16)


def test_refl_raises_the_lowest_frame_of_a_tiny_wan(policy, reward):
    trained = copy.deepcopy(policy)
    scorer = framewise(reward, policy, "min")
    module = ReFL(trained, scorer, late=0.34, optimizer=lambda p: torch.optim.AdamW(p, 1e-3))
    pl.Trainer(max_steps=8, max_epochs=-1, **SILENT).fit(module, Prompts(PROMPTS, batch_size=8))
    scores = []
    for generator in (policy, trained):
        drawn = generator.eval().generate(PROMPTS * 2, seeds=row_seeds(3, 16))
        scores.append(scorer(drawn))
    gain = scores[1].mean() - scores[0].mean()
    assert gain > 2 * scores[0].std() / 4, (gain, scores[0].std())
