"""The help topics as a world: a small language model, pairs labelled by a gold that is counted.

See `rewardlab.embedded.topics`. Members learn from 1,000 pairs of the base policy's responses; gold
measures and labels, and nothing else. An attack is Adv-RM's, with the settings of
configs/adv_rm/topics.yaml unless a claim says so.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from claims.claim import Figures, Work
from rewardlab.attackers import RLAttacker
from rewardlab.conversations import Prompt
from rewardlab.embedded import topics
from rewardlab.evaluation.attack_success import AttackSuccess, attack_success, score_pair
from rewardlab.mining import candidates
from rewardlab.policies import CausalLMPolicy
from rewardlab.rewards import Attack, Relative, Reward
from rewardlab.seeds import derive
from rewardlab.training import PPO
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples

PAIRS = 1000


class Scene(NamedTuple):
    """What an attack is made on.

    Attributes:
        policy: that is copied and trained.
        target: the member under attack, fitted.
        witness: another member, of the same pairs.
        prompts: of the attack.
        references: responses of the policy to them.
    """

    policy: CausalLMPolicy
    target: Reward
    witness: Reward
    prompts: list[Prompt]
    references: Samples


@cache
def base_policy(train_steps: int) -> CausalLMPolicy:
    """Return the base policy."""
    return topics.base_policy(train_steps, seed=0)


@cache
def gold() -> topics.Gold:
    """Return gold."""
    return topics.Gold()


def policy_of(work: Work) -> CausalLMPolicy:
    """Return the base policy, trained for 700 steps, or 60 at the small size."""
    return base_policy(train_steps_of(work))


def train_steps_of(work: Work) -> int:
    """Return the training steps of the base policy."""
    return 60 if work.small else 700


def member(work: Work, seed: int, number: int, **options: Any) -> Reward:
    """Return a fitted member; a seed's members learn from the same pairs and differ by `number`.

    It is kept in the cache, by its settings.

    Args:
        work: the size; the small one fits to 40 pairs.
        seed: of the pairs.
        number: 0 is the target, 1 the witness.
        options: of `topics.member_reward`.
    """
    return topics.member_reward(
        seed=derive(seed, "member", number) % 100_000,
        train_steps=train_steps_of(work),
        pairs_seed=seed,
        **{"pairs": 40 if work.small else PAIRS, **options},
    )


def scene(work: Work, seed: int, prompts: int = 256, references: int = 8) -> Scene:
    """Return a target, its witness and the references of a seed.

    Args:
        work: the size; the small one takes eight prompts.
        seed: of pairs, members and references.
        prompts: how many training prompts.
        references: responses of the base policy to each.
    """
    policy = policy_of(work)
    texts = topics.prompts("train", 8 if work.small else prompts)
    chosen: list[Prompt] = list(texts)
    drawn = candidates(policy, chosen, references, derive(seed, "references"))
    return Scene(policy, member(work, seed, 0), member(work, seed, 1), chosen, drawn)


def attack_on(scene: Scene, **options: Any) -> Attack:
    """Return the adversary's reward on a scene, target and witness relative to the references.

    Args:
        scene: what is attacked.
        options: of `Attack`, such as `weight` and `penalty`.
    """
    target = Relative(scene.target, scene.references)
    return Attack(target, Relative(scene.witness, scene.references), **options).eval()


def adversary(
    scene: Scene, reward: Reward, seed: int, steps: int = 100, kl_weight: float = 0.0
) -> Samples:
    """Return fresh responses of a policy that was trained on a reward, one a prompt.

    Args:
        scene: its policy is copied, and its prompts are trained on.
        reward: what the copy maximises.
        seed: of the training and of the responses.
        steps: of PPO, 64 responses each.
        kl_weight: of the loop.
    """
    optimizer = partial(torch.optim.AdamW, lr=5e-4)
    loop = partial(PPO, kl_weight=kl_weight, optimizer=optimizer)
    options = {"max_steps": steps, "max_epochs": -1, "accelerator": "cpu", **SILENT}
    trainer = partial(pl.Trainer, **options)
    attacker = RLAttacker(loop=loop, trainer=trainer, collect="fresh")
    return attacker(scene.policy, reward, scene.prompts, seed)


def success(scene: Scene, found: Samples, target: Reward | None = None) -> AttackSuccess:
    """Return how often responses fool the target, or another reward, and not gold."""
    attacked = target or scene.target
    references = score_pair(scene.references, attacked, gold())
    return attack_success(score_pair(found, attacked, gold()), references)


def rates(result: AttackSuccess) -> Figures:
    """Return the rates of an attack and its floors, as figures of a row."""
    return {
        "success": result.attack.standard.value,
        "strict_success": result.attack.strict.value,
        "passes_gate": result.attack.accepted.value,
        "best_of_n": result.best_of_n.standard.value,
    }
