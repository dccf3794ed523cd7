"""Attacks on the help topics that several claims read: each adversary is trained once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from claims import text_world
from claims.claim import Figures, Row, Work
from claims.text_world import Scene
from rewardlab.rewards import Relative
from rewardlab.rewards.scoring import scores_of
from rewardlab.storage.samples import load_samples, save_samples
from rewardlab.types import Samples

STEPS = 100
UNGATED = -1e6  # a threshold that everything beats


def steps_of(work: Work) -> int:
    """Return the training steps of an adversary."""
    return 2 if work.small else STEPS


@lru_cache(maxsize=2)
def scene_of(work: Work, seed: int) -> Scene:
    """Return the scene of a seed; the settings of a seed are measured one after the other."""
    return text_world.scene(work, seed)


def kept(work: Work, name: str, seed: int, make: Callable[[], Samples]) -> Samples:
    """Return what an attack found, from the work's folder if it stands there."""
    folder = work.folder / "attacks" / f"{name}-{seed}"
    if not folder.exists():
        save_samples(folder, make())
    return load_samples(folder)


def adversary(work: Work, seed: int, weight: float = 1.0) -> Samples:
    """Return fresh responses of an adversary of weight λ with the gate, one a prompt."""

    def make() -> Samples:
        scene = scene_of(work, seed)
        attack = text_world.attack_on(scene, weight=weight)
        return text_world.adversary(scene, attack, seed, steps=steps_of(work))

    return kept(work, f"adversary-{weight:g}", seed, make)


def plain(work: Work, seed: int) -> Samples:
    """Return fresh responses of a policy that maximised R1 alone, as RLHF does."""

    def make() -> Samples:
        scene = scene_of(work, seed)
        attack = text_world.attack_on(scene, weight=0.0, threshold=UNGATED)
        return text_world.adversary(scene, attack, seed, steps=steps_of(work))

    return kept(work, "plain", seed, make)


def figures(scene: Scene, found: Samples) -> Figures:
    """Return the rates of an attack, and what target, witness and gold say of it.

    Scores are means, in deviations of the references above the mean reference of the prompt.
    """
    rewards = {"target": scene.target, "witness": scene.witness, "gold": text_world.gold()}
    means = {}
    for name, reward in rewards.items():
        relative = Relative(reward, scene.references)
        means[name] = scores_of(relative, found).mean().item()
    return {**text_world.rates(text_world.success(scene, found)), **means}


def present(rows: Sequence[Row], settings: Iterable[str]) -> list[str]:
    """Return the settings that were measured, in their order; the small size leaves some out."""
    measured = {row["setting"] for row in rows}
    return [setting for setting in settings if setting in measured]
