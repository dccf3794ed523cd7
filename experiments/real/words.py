"""How well a reward ranks pairs, and how much of that is length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from real.remedies import margins_of, repeated
from real.tables import markdown
from real.worlds import World
from rewardlab.attackers import RandomEdits
from rewardlab.evaluation.intervals import wilson
from rewardlab.mining import BestOf
from rewardlab.policies import CallableGenerator
from rewardlab.rewards import Reward
from rewardlab.rewards.rules import Length
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import PreferencePairs, Samples, concatenate

N = 8  # of best of n
Figures = dict[str, Any]
FIGURES = {
    "held_out": "held-out pairs",
    "longer": "… where the longer won",
    "shorter": "… where the shorter won",
    "people": "people agree",
    "best_of_n": f"words, best of {N} over mean",
    "repeated": "prefers an answer said twice",
    "edited": "prefers shuffled words",
}


def measure(reward: Reward, world: World, seed: int) -> Figures:
    """Return every figure of one reward."""
    held_out = world.held_out
    right = correct(margins_of(reward, held_out))
    longer = margins_of(Length(), held_out) > 0
    figures = {
        "held_out": share(right),
        "longer": share(right[longer]),
        "shorter": share(right[~longer]),
        "best_of_n": best_of_n_length(reward, held_out, seed),
        "repeated": preferred(reward, held_out.chosen, repeated),
        "edited": preferred(reward, held_out.chosen, partial(shuffled_words, seed=seed)),
    }
    if world.people is not None:
        figures["people"] = share(correct(margins_of(reward, world.people)))
    return figures


def correct(margins: Tensor) -> Tensor:
    """Return 1 where chosen leads, one half for a tie, else 0."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


def share(right: Tensor) -> Figures | None:
    """Return the mean with Wilson's 95 % interval; None of nothing."""
    if not len(right):
        return None
    estimate = wilson(right.mean().item(), len(right))
    return {"mean": estimate.value, "low": estimate.low, "high": estimate.high}


def preferred(
    reward: Reward, answers: Samples, attack: Callable[[Samples], Samples]
) -> Figures | None:
    """Return the share of attacked answers that the reward prefers to the answers themselves."""
    return share(correct(scores_of(reward, attack(answers)) - scores_of(reward, answers)))


def shuffled_words(samples: Samples, seed: int) -> Samples:
    """Return texts of which half of the words are swapped with the next or said twice."""
    return RandomEdits(rate=0.5, kinds=["swap", "duplicate"]).edit(samples, seed)


def best_of_n_length(reward: Reward, pairs: PreferencePairs, seed: int) -> Figures:
    """Return the words of the best of n answers, over those of all answers to the same prompts.

    The generator draws from the answers that the pairs hold of a prompt.
    """
    both = concatenate([pairs.chosen, pairs.rejected])
    answers: dict[Any, list[str]] = defaultdict(list)
    for prompt, text in zip(both.prompts, both.outputs, strict=True):
        answers[prompt].append(str(text))

    def draw(prompts: Sequence[Any], seeds: Tensor) -> list[str]:
        texts = []
        for prompt, number in zip(prompts, seeds.tolist(), strict=True):
            texts.append(answers[prompt][number % len(answers[prompt])])
        return texts

    generator = CallableGenerator(draw)
    prompts = [prompt for prompt, texts in answers.items() if len(texts) >= 4][:12]
    prompts = prompts or list(answers)[:24]
    seeds = row_seeds(derive(seed, "best of n"), len(prompts))
    best = BestOf(generator, reward, N).generate(prompts, seeds=seeds)
    words = Length()(best).mean().item()
    means = []
    for prompt in prompts:
        texts = answers[prompt]
        means.append(Length()(Samples([prompt] * len(texts), texts)).mean().item())
    return {"mean": words / (sum(means) / len(means))}


def table(figures: Figures) -> str:
    """Return a Markdown table: a row a reward, shares with their 95 % intervals."""
    return markdown(figures, FIGURES)
