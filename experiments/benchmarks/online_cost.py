"""What a correction that learns inside the run costs: RLOO with it and without, in turns.

    OMP_NUM_THREADS=1 python experiments/benchmarks/online_cost.py

Both runs are of Python's help topics, on the policy, the members, the prompts and the settings of
configs/adv_rm/topics.yaml and configs/menu/online.yaml; readings are left out, and so is what is
done once before the first step (fits, anchors and their scores). Seconds are the processor's.
"plain" climbs the same two members, each in its own deviations. The program prints the seconds a
step of each turn, the ratio of the turn's online run to its plain one, and the median of the
ratios; and a hash in which two versions of the program agree if what they trained is the same to
the bit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.optim import AdamW

from rewardlab.data.prompt_data import Prompts
from rewardlab.embedded import topics
from rewardlab.mining import candidates
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.rewards.combine import Ensemble
from rewardlab.rewards.corrected import Corrected
from rewardlab.rewards.scoring import scores_of
from rewardlab.rounds.hardening import _best, _mean_in_deviations
from rewardlab.rounds.tether import in_deviations
from rewardlab.training import PPO, Importance, Online, Replay
from rewardlab.training.online import correction_state
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples

BEST_OF = 8


class World(NamedTuple):
    """What both runs share: the reward without correction, the anchors, and their candidates."""

    reward: Reward
    anchors: Samples
    pool: Samples
    prompts: list[Any]


class Run(NamedTuple):
    """Seconds a step, and a hash of what was trained."""

    seconds: float
    result: str


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="rollouts between two updates")
    parser.add_argument("--importance", action="store_true", help="weights of stale outputs")
    options = parser.parse_args()
    settings: dict[str, Any] = {"every": options.every}
    if options.importance:
        settings["replay"] = Replay(importance=Importance())
    world = _world()
    _run(world, 2, settings)
    ratios = []
    for _ in range(options.turns):
        plain = _run(world, options.steps)
        hardened = _run(world, options.steps, settings)
        ratios.append(hardened.seconds / plain.seconds)
        print(
            f"plain {plain.seconds:.4f} s ({plain.result[:8]}), online {hardened.seconds:.4f} s "
            f"({hardened.result[:8]}), ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f}")


def _world() -> World:
    """Draw the anchors of the training prompts as the rounds do."""
    policy = topics.base_policy().eval()
    members = [topics.member_reward(seed) for seed in (1, 2)]
    prompts = list(topics.prompts("train"))[:64]
    pool = candidates(policy, prompts, BEST_OF, seed=0)
    columns = [scores_of(member, pool) for member in members]
    scaled: list[Reward] = []
    for member, column in zip(members, columns, strict=True):
        scaled.append(in_deviations(member, pool.prompts, column))
    anchors = _best(pool, _mean_in_deviations(columns, BEST_OF), BEST_OF)
    return World(Ensemble(scaled).eval(), anchors, pool, prompts)


def _run(world: World, steps: int, settings: dict[str, Any] | None = None) -> Run:
    """Train a new policy for some steps, with a correction where there are settings of it."""
    reward = world.reward
    callbacks: list[pl.Callback] = []
    if settings is not None:
        reward = Corrected(world.reward, topics.member(seed=3), weight=2.0)
        callback = Online(rows=48, optimizer=partial(AdamW, lr=2e-3), **settings)
        callback.begin(world.anchors, world.pool)
        callbacks.append(callback)
    loop = PPO(topics.base_policy(), reward, kl_weight=0, optimizer=partial(AdamW, lr=2e-4))
    trainer = pl.Trainer(max_steps=steps, max_epochs=-1, callbacks=callbacks, **SILENT)
    start = time.process_time()
    trainer.fit(loop, Prompts(world.prompts, batch_size=16))
    seconds = (time.process_time() - start) / steps
    trained = [weight.detach() for weight in loop.policy.parameters()]
    if isinstance(reward, Corrected):
        trained += correction_state(reward).values()
    return Run(seconds, fingerprint(trained))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
