"""Attackers by name, with settings that suit the policy."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple, get_args

import torch

from rewardlab.attackers import (
    BestOfN,
    Guided,
    HighTemperature,
    PGDAttacker,
    RandomEdits,
    TokenGradient,
)
from rewardlab.attackers.base import Attacker
from rewardlab.errors import InputError
from rewardlab.policies import Generator, Policy

AttackerName = Literal[
    "best_of_n", "high_temperature", "random_edits", "guided", "token_gradient", "pgd", "rl"
]
ATTACKERS: tuple[AttackerName, ...] = get_args(AttackerName)


class PPOSettings(NamedTuple):
    """What PPO of a trained adversary takes.

    Attributes:
        clip: ε of the ratio of new and old probabilities.
        kl_weight: β, what the adversary pays for a nat of distance from the policy.
    """

    clip: float
    kl_weight: float


# A token's ratio moves by tens of per cent. A little KL keeps the adversary near text.
TEXT_PPO = PPOSettings(clip=0.2, kl_weight=0.01)
# An image's log-probabilities are means over its dimensions, so ratios stay within about 1e-4 of 1
# (DDPO's clip). An image has so many nats that any price for them would outweigh the reward.
IMAGE_PPO = PPOSettings(clip=1e-4, kl_weight=0.0)


def make_attacker(
    name: AttackerName,
    policy: Generator,
    n: int = 16,
    steps: int = 200,
    lr: float = 1e-5,
    accelerator: str = "auto",
) -> Attacker:
    """Return the attacker of this name.

    Args:
        name: "best_of_n", "high_temperature", "random_edits", "guided", "token_gradient" (texts
            only), "pgd" (images only), or "rl", which trains an adversary by PPO.
        policy: the policy that will be attacked from; the settings of "rl" depend on its kind.
        n: samples of a prompt that the attacker chooses from; continuations of a text that "guided"
            chooses from; samples of a prompt that the adversary of "rl" draws in the end.
        steps: optimizer steps of "rl".
        lr: learning rate of "rl".
        accelerator: Lightning's accelerator of "rl", such as "gpu" or "cpu".

    Raises:
        InputError: if there is no attacker of this name, or `n` is below 1.

    Example:
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.policies import DiffusionPolicy
        >>> make_attacker("best_of_n", DiffusionPolicy(tiny_diffusion(classes=0)), n=4)
        BestOfN(n=4, keep=1)
    """
    match name:
        case "best_of_n":
            return BestOfN(n=n)
        case "high_temperature":
            return HighTemperature(n=n)
        case "random_edits":
            return RandomEdits(n=n)
        case "guided":
            return Guided(candidates=n)
        case "token_gradient":
            return TokenGradient(n=n)
        case "pgd":
            return PGDAttacker(n=n)
        case "rl":
            return _trained(policy, n, steps, lr, accelerator)
    raise InputError(f"There is no attacker {name!r}. The attackers are {', '.join(ATTACKERS)}.")


def _trained(policy: Generator, n: int, steps: int, lr: float, accelerator: str) -> Attacker:
    """Return an attacker that trains a copy of the policy by PPO and draws n samples a prompt."""
    from pytorch_lightning import Trainer

    from rewardlab.attackers import RLAttacker
    from rewardlab.training.ppo import PPO

    mean_log_prob = isinstance(policy, Policy) and policy.mean_log_prob
    settings = IMAGE_PPO if mean_log_prob else TEXT_PPO
    loop = partial(PPO, **settings._asdict(), optimizer=partial(torch.optim.AdamW, lr=lr))
    trainer = partial(
        Trainer, max_steps=steps, max_epochs=steps, accelerator=accelerator, devices=1
    )
    return RLAttacker(loop, trainer, collect="fresh", per_prompt=n)
