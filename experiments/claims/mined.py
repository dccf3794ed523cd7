"""What the claims on mining share: trained adversaries and policies, kept, and their readings.

All of it is in the world of the help topics (`claims.text_world`). What an adversary or a policy
found is kept under the work's folder by its name and seed, so that claims share it.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import pytorch_lightning as pl
import torch

from claims import text_world
from claims.claim import Figures, Work
from claims.text_world import Scene
from rewardlab.attackers.rl import fresh_copy
from rewardlab.attackers.rollout_buffer import RolloutBuffer
from rewardlab.conversations import Prompt
from rewardlab.data.prompt_data import Prompts
from rewardlab.embedded import topics
from rewardlab.mining import candidates, extremes
from rewardlab.policies import Policy, load_policy
from rewardlab.rewards import Relative, Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.rounds.attacking import Sides
from rewardlab.seeds import derive
from rewardlab.storage import load_samples, save_samples
from rewardlab.storage.atomic import new_folder
from rewardlab.training import PPO
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples

STEPS = 60
ADDED = 100  # adversarial pairs to 1,000 clean ones, as in configs/adv_rm/topics.yaml


class Trained(NamedTuple):
    """A policy that was trained on a reward.

    Attributes:
        policy: as it is in the end.
        found: all that it drew on its way, with the facts "step" and, of an attack, "target" and
            "witness".
    """

    policy: Policy
    found: Samples


class Judged(NamedTuple):
    """What an attack found, with scores.

    Attributes:
        found: all that the adversary drew.
        sides: target and witness, with their scores of the references.
        gold: scores of `found` and of the references.
    """

    found: Samples
    sides: Sides
    gold: tuple[torch.Tensor, torch.Tensor]


@cache
def scene_of(work: Work, seed: int) -> Scene:
    """Return a seed's scene, made once a process."""
    return text_world.scene(work, seed)


@cache
def gold_of(work: Work, seed: int) -> Relative:
    """Return gold in deviations of a scene's references, 0 at each prompt's mean reference."""
    return Relative(text_world.gold(), scene_of(work, seed).references)


@cache
def held_out_pairs(work: Work) -> PreferencePairs:
    """Return pairs of the base policy's responses to held-out prompts, which gold labels."""
    texts = topics.prompts("held_out", 16 if work.small else 512)
    drawn = candidates(text_world.policy_of(work), list(texts), 2, derive(0, "held-out pairs"))
    return extremes(drawn, scores_of(text_world.gold(), drawn), 2)


def trained(work: Work, name: str, seed: int, start: Policy, reward: Reward, steps: int) -> Trained:
    """Train a copy of a policy by RLOO on a scene's prompts, or load what was trained.

    Args:
        work: where it is kept.
        name: of what is trained; it says all but the seed.
        seed: of the scene and of the training.
        start: the policy that is copied.
        reward: what the copy maximises, without a KL penalty.
        steps: of 64 responses; one at the small size.
    """
    folder = work.folder / f"mined-{name}-{seed}"
    if not folder.exists():
        made = _train(scene_of(work, seed), seed, name, start, reward, 1 if work.small else steps)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as fresh:
            save_samples(fresh / "found", made.found)
            made.policy.save_pretrained(fresh / "policy")
    return Trained(load_policy(folder / "policy").eval(), load_samples(folder / "found"))


def _train(
    scene: Scene, seed: int, name: str, start: Policy, reward: Reward, steps: int
) -> Trained:
    policy = fresh_copy(start)
    buffer = RolloutBuffer(reward)
    optimizer = partial(torch.optim.AdamW, lr=5e-4)
    loop = PPO(policy, buffer, kl_weight=0.0, optimizer=optimizer, seed=derive(seed, name))
    data = Prompts(scene.prompts, batch_size=16, seed=derive(seed, name, "prompts"))
    trainer = pl.Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", **SILENT)
    trainer.fit(loop, data)
    return Trained(policy, buffer.samples())


def fresh_of(policy: Policy, scene: Scene, seed: int) -> Samples:
    """Return a fresh response of a policy to each prompt of a scene."""
    return candidates(policy, scene.prompts, 1, derive(seed, "judged"))


def sides_of(scene: Scene) -> Sides:
    """Return a scene's two members relative to its references, with their scores of these."""
    target = Relative(scene.target, scene.references).eval()
    witness = Relative(scene.witness, scene.references).eval()
    scores = [scores_of(side, scene.references) for side in (target, witness)]
    return Sides(target, witness, scene.references, scores[0], scores[1])


def first_attack(work: Work, seed: int) -> Trained:
    """Return the attack of Adv-RM on members of clean pairs, which several claims mine."""
    scene = scene_of(work, seed)
    attack = text_world.attack_on(scene)
    return trained(work, "attack", seed, scene.policy, attack, steps=STEPS)


@cache
def judged_attack(work: Work, seed: int) -> Judged:
    """Return what the first attack found, with all scores that mining asks for."""
    scene = scene_of(work, seed)
    found = first_attack(work, seed).found
    gold = text_world.gold()
    judged = (scores_of(gold, found), scores_of(gold, scene.references))
    return Judged(found, sides_of(scene), judged)


def against(references: Samples, rejected: Samples) -> PreferencePairs:
    """Pair each output, as rejected, with the first reference of its prompt, and filter nothing."""
    rows: dict[Prompt, int] = {}
    for row, prompt in enumerate(references.prompts):
        rows.setdefault(prompt, row)
    chosen = references[[rows[prompt] for prompt in rejected.prompts]]
    return PreferencePairs(without_facts(chosen), without_facts(rejected))


def without_facts(samples: Samples) -> Samples:
    """Return samples alone, so that those of several sources go together."""
    return Samples(samples.prompts, samples.outputs)


def some(samples: Samples, count: int, seed: int) -> Samples:
    """Return so many of the samples, drawn without putting any back, in their order."""
    dice = torch.Generator().manual_seed(derive(seed, "some"))
    rows = torch.randperm(len(samples), generator=dice)[:count]
    return samples[rows.sort().values]


def accuracy(reward: Reward, pairs: PreferencePairs) -> float:
    """Return the share of pairs whose chosen half scores above the rejected one."""
    lead = scores_of(reward, pairs.chosen) - scores_of(reward, pairs.rejected)
    return (lead > 0).float().mean().item()


def run_figures(work: Work, seed: int, found: Samples) -> Figures:
    """Return gold and proxy of what a policy drew while it was trained, in deviations."""
    gold = scores_of(gold_of(work, seed), found)
    steps = found.facts["step"]
    late = steps >= steps.max() - 9
    return {
        "gold_of_run": gold.mean().item(),
        "gold_at_end": gold[late].mean().item(),
        "proxy_at_end": found.facts["attack"][late].mean().item(),
    }


def without_pairs(work: Work, seed: int) -> Trained:
    """Return a policy that was trained on a target of clean pairs alone, and what it drew."""
    scene = scene_of(work, seed)
    return trained(work, "a10-clean-pairs-alone", seed, scene.policy, proxy_of(scene), STEPS)


def proxy_of(scene: Scene) -> Relative:
    """Return a scene's target in deviations of its references, which a policy climbs."""
    return Relative(scene.target, scene.references).eval()
