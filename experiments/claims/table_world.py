"""A world of 25 pictures, each with one lit pixel, whose generator and targets are known tables.

Two distributions are drawn over the pictures: q is the generator's, p the targets'. So log p/q,
which GAN-RM's logit is to be, is known for each picture, and so is how far any policy is from p.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import one_hot

from claims.image_world import Pseudo, dice
from rewardlab.conversations import Prompt
from rewardlab.data.prompt_data import Prompts
from rewardlab.data.targets import TargetSamples
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.seeds import row_seeds
from rewardlab.training import GANRM, PPO
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples, Trajectory, images_of

SIDE = 5
STATES = SIDE * SIDE
SEED_RANGE = 2.0**62  # of rewardlab.seeds


class Table(Policy):
    """A policy of one step: a table of logits over the pictures. It takes no prompt.

    Args:
        log_chances: float [STATES], its logits at the start.
    """

    def __init__(self, log_chances: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(log_chances.float().clone())

    def chances(self) -> Tensor:
        """Return the probability of each picture, float64 [STATES]."""
        return self.logits.detach().double().softmax(0)

    def sample(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Trajectory:
        """Draw a picture a row: a row's seed, as a share of all seeds, is its uniform number."""
        shares = seeds.double() / SEED_RANGE
        states = torch.searchsorted(self.chances().cumsum(0), shares).clamp_max(STATES - 1)
        return self._trajectory(prompts, states, {"seed": seeds})

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Return the one step to each picture."""
        return self._trajectory(samples.prompts, states_of(samples), dict(samples.facts))

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the pictures."""
        return Samples(trajectory.prompts, pictures(trajectory.tensors["states"]), trajectory.facts)

    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return the log-probability of the one step, float32 [B, 1]."""
        return self.logits.log_softmax(0)[trajectory.tensors["states"]][:, None]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the table."""
        save_file(self.state_dict(), Path(folder) / "table.safetensors")

    def _trajectory(
        self, prompts: Sequence[Prompt], states: Tensor, facts: dict[str, Tensor]
    ) -> Trajectory:
        mask = torch.ones(len(states), 1, dtype=torch.bool)
        return Trajectory(prompts, {"states": states}, mask, facts)


class TableReward(Reward):
    """A score for each picture.

    Args:
        scores: [STATES]; all 0 by default, to be fitted.
    """

    def __init__(self, scores: Tensor | None = None) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(STATES) if scores is None else scores.float())

    def forward(self, samples: Samples) -> Tensor:
        """Return the pictures' scores, float32 [B]."""
        return self.scores[states_of(samples)]


class World(NamedTuple):
    """The two tables of a seed.

    Attributes:
        p: of the targets, float64 [STATES].
        q: of the generator.
    """

    p: Tensor
    q: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """Return log p/q."""
        return (self.p / self.q).log()


def world_of(seed: int) -> World:
    """Return two tables, each the softmax of standard normal numbers."""
    p, q = torch.randn(2, STATES, generator=dice(seed, "tables"), dtype=torch.float64).softmax(1)
    return World(p, q)


def pictures(states: Tensor) -> Tensor:
    """Return pictures [B, 1, SIDE, SIDE], the pixel of each row's state lit."""
    return one_hot(states, STATES).float().view(-1, 1, SIDE, SIDE)


def states_of(samples: Samples) -> Tensor:
    """Return which pixel is lit, int64 [B]."""
    return images_of(samples, "A table").flatten(1).argmax(1)


def drawn(chances: Tensor, count: int, seed: int) -> Samples:
    """Return so many pictures of a distribution."""
    policy = Table(chances.log())
    return policy.generate([""] * count, seeds=row_seeds(seed, count))


def fitted(
    targets: Samples, negatives: Samples, steps: int, seed: int, pseudo: Pseudo | None = None
) -> TableReward:
    """Return a table that GAN-RM's loop has fitted, without smoothing or weight decay.

    Args:
        targets: of p.
        negatives: of q.
        steps: of 256 pictures each; the learning rate falls to 0.
        seed: of the batches.
        pseudo: pictures with labels of their own.
    """
    reward = TableReward()
    data = TargetSamples(targets, negatives, held_out=1, channels=1, batch_size=256, seed=seed)
    if pseudo is not None:
        data = data.against(negatives, pseudo)
    loop = GANRM(reward, optimizer=partial(torch.optim.Adam, lr=0.1), schedule=falling(steps))
    options = {"limit_val_batches": 0, "accelerator": "cpu", **SILENT}
    pl.Trainer(max_steps=steps, max_epochs=-1, **options).fit(loop, data)
    return reward.eval()


def optimised(world: World, reward: Reward, beta: float, steps: int, seed: int) -> Table:
    """Return the generator after RLOO on a reward, less β times the KL to the generator.

    Args:
        world: whose q is the start and the reference.
        reward: what is raised.
        beta: score a nat.
        steps: of 256 pictures each; the learning rate falls to 0.
        seed: of the pictures.
    """
    policy = Table(world.q.log())
    loop = PPO(
        policy,
        reward,
        samples_per_prompt=256,
        kl_weight=beta,
        optimizer=partial(torch.optim.Adam, lr=0.15),
        schedule=falling(steps),
        seed=seed,
    )
    trainer = pl.Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", **SILENT)
    trainer.fit(loop, Prompts([""] * steps, batch_size=1))
    return policy


def falling(steps: int) -> partial[torch.optim.lr_scheduler.CosineAnnealingLR]:
    """Return what makes a learning rate that falls to 0 in so many steps."""
    return partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)


def variation(one: Tensor, other: Tensor) -> float:
    """Return the total variation of two distributions, from 0 to 1."""
    return (one - other).abs().sum().item() / 2
