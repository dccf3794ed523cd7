"""Stories as a world of the menu's study: preferences of a judge that nobody here trained."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from real.likelihood import Likelihood
from real.tellers import BEGINNINGS, teller
from rewardlab.data import Preferences
from rewardlab.embedded.cache import cached
from rewardlab.evaluation.prompts import in_turn
from rewardlab.mining import candidates, extremes
from rewardlab.policies import CausalLMPolicy
from rewardlab.provenance import fingerprint
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive
from rewardlab.storage.samples import load_pairs, save_pairs


def likely_pairs(
    folder: str, n: int = 256, held_out: int = 64, batch_size: int = 32, seed: int = 0
) -> Preferences:
    """Return pairs of the teller's stories of which SmolLM2 prefers the likelier, per token.

    They are drawn and judged once; judging 640 stories takes SmolLM2 some minutes.

    Args:
        folder: the teller, as `tellers.taught` wrote it.
        n: number of pairs to train on.
        held_out: number of further pairs that are held out.
        batch_size: pairs a step.
        seed: seed of the stories and of the split.
    """
    policy = teller(folder)
    count = n + held_out
    settings = {"n": count, "seed": seed, "policy": fingerprint(policy)}
    draw = partial(_draw_pairs, policy=policy, count=count, seed=seed)
    pairs = load_pairs(cached("real-stories", settings, ("torch", "rewardlab"), draw) / "pairs")
    return Preferences(pairs, held_out=held_out, batch_size=batch_size, seed=seed)


def _draw_pairs(folder: Path, policy: CausalLMPolicy, count: int, seed: int) -> None:
    """Draw two stories of each beginning in turn, and put the likelier one first."""
    prompts = in_turn(BEGINNINGS, count)
    stories = candidates(policy, prompts, 2, derive(seed, "likely pairs"))
    pairs = extremes(stories, scores_of(Likelihood(), stories), 2)
    save_pairs(folder / "pairs", pairs)
