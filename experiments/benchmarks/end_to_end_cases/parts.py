"""Pieces of the loops, and commands."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, NamedTuple

from end_to_end_cases.material import RESPONSE, network, pairs, texts, tokenizer
from end_to_end_cases.measuring import Figures, measured

DISCOUNT = 0.99
LAMBDA = 0.95


class _Steps(NamedTuple):
    """Rewards and values [64, 1024]."""

    rewards: Any
    values: Any


def _steps() -> _Steps:
    import torch

    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(64, 1024, generator=generator)
    values = torch.randn(64, 1024, generator=generator)
    return _Steps(rewards, values)


def gae_ours() -> Figures:
    """Measure generalized advantages by our scan."""
    import torch

    from rewardlab.advantages import generalized

    rewards, values = _steps()
    mask = torch.ones(64, 1024, dtype=torch.bool)

    def job() -> None:
        generalized(rewards, values, mask, discount=DISCOUNT, lam=LAMBDA)

    return measured(job, 15)


def gae_loop() -> Figures:
    """Measure generalized advantages by a Python loop over the steps."""
    import torch

    rewards, values = _steps()

    def job() -> None:
        advantage = torch.zeros(64)
        columns = []
        for t in reversed(range(1024)):
            following = values[:, t + 1] if t < 1023 else 0.0
            error = rewards[:, t] + DISCOUNT * following - values[:, t]
            advantage = error + DISCOUNT * LAMBDA * advantage
            columns.append(advantage)
        torch.stack(columns[::-1], 1)

    return measured(job, 15)


def heads(count: int) -> Figures:
    """Measure the members' scores of a reward with so many heads."""
    import torch

    from rewardlab.rewards.language import LanguageReward

    reward = LanguageReward(network(), tokenizer(), heads=count).eval()
    samples = pairs(64).chosen

    def job() -> None:
        reward.members(samples)

    with torch.no_grad():
        return measured(job)


def gan_rm_epoch(cached: bool) -> Figures:
    """Measure an epoch of a projection head over 256 images.

    The features are computed once (`cached`), or by the tower in every step.
    """
    import torch

    from rewardlab import Samples
    from rewardlab.losses.discrimination import discrimination_loss

    torch.manual_seed(0)
    reward = _vision_reward()
    images = torch.rand(256, 3, 64, 64)
    labels = torch.arange(256) % 2
    parts = images.split(64)
    with torch.no_grad():
        features = torch.cat([reward.features(Samples([""] * 64, part)) for part in parts])
    trainable = [weight for weight in reward.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable)

    def features_of(rows: Any) -> Any:
        if cached:
            return features[rows]
        return reward.features(Samples([""] * len(rows), images[rows]))

    def epoch() -> None:
        for rows in torch.randperm(256).split(64):
            scores = reward.score_features(features_of(rows))
            optimizer.zero_grad()
            discrimination_loss(scores, labels[rows].float()).backward()
            optimizer.step()

    return measured(epoch, 5)


def _vision_reward() -> Any:
    from open_clip.model import CLIP

    from rewardlab import VisionReward

    vision = {"image_size": 64, "patch_size": 8, "width": 192, "layers": 6, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    tower = CLIP(64, vision, text).eval()
    return VisionReward(tower, heads=4)


def sharing(shared: bool) -> Figures:
    """Measure log-probabilities and their gradient of 8 responses to each of 4 prompts.

    Prompts are run once, packed with their responses (`shared`), or with every row.
    """
    import torch

    from rewardlab import CausalLMPolicy, Samples
    from rewardlab.networks import packing

    packing.MOST_MASK = 2**27 if shared else 0
    policy = CausalLMPolicy(network(), tokenizer())
    prompts = []
    for prompt in texts(4, 128, 0):
        prompts += [prompt] * 8
    samples = Samples(prompts, texts(32, RESPONSE, 1))
    trajectory = policy.encode(samples, seeds=torch.zeros(32, dtype=torch.long))

    def job() -> None:
        policy.zero_grad()
        policy.log_prob(trajectory).sum().backward()

    return measured(job, 5)


def command(*argv: str) -> Figures:
    """Measure a command."""

    def job() -> None:
        subprocess.run(argv, check=True, capture_output=True)

    return measured(job, 5)


def imported(module: str) -> Figures:
    """Measure the import of a module in a fresh process."""
    return command(sys.executable, "-c", f"import {module}")
