"""G9: a reward that does not read prompts likes the right look under the wrong prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means_across
from claims.image_world import auc, fitted, ink, parts, pool, rank_correlation, unseen
from claims.intervals import above, all_of, gain, mean_of, values_of
from rewardlab.data.captions import mismatched
from rewardlab.embedded.digit_data import WORDS
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples

BLIND, READING = "unconditional", "conditional"
SETTINGS = (BLIND, READING)
TELLS = 0.75  # share of pictures that score higher under their own prompt; blind is 0.5
FIGURES = {
    "own_prompt_wins": "a picture scores higher\nunder its own prompt",
    "wrong_beats_plain": "target-like and wrong prompt\nbeats plain and right",
    "auc": "target-like and right prompt\nbeats plain and right",
    "rank_correlation": "rank correlation with gold,\nright prompts",
}


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Fit a reward with or without prompts, and show it targets under right and wrong ones."""
    targets, _, held_out, base = taken = parts(work, 500, seed)
    others = unseen(pool(work), (taken[0], *taken[2:]), seed)
    negatives = of_prompts(others, targets.prompts)
    steps = 20 if work.small else 150
    options = {"steps": steps, "conditional": setting == READING}
    reward = fitted(targets[: len(negatives)], negatives, seed, **options)
    wrong = mismatched(held_out)
    own_score, wrong_score = scores_of(reward, held_out), scores_of(reward, wrong)
    plain = scores_of(reward, base)
    return {
        "own_prompt_wins": (1 + (own_score - wrong_score).sign()).mean().item() / 2,
        "wrong_beats_plain": auc(wrong_score, plain),
        "auc": auc(own_score, plain),
        "rank_correlation": rank_correlation(plain, ink(base, pool(work))),
    }


def of_prompts(samples: Samples, prompts: Sequence[Any]) -> Samples:
    """Return different samples of the generator, one for each of the prompts in their order."""
    rows: dict[Any, list[int]] = {word: [] for word in WORDS}
    for row, word in enumerate(samples.prompts):
        rows[word].append(row)
    return samples[[rows[prompt].pop() for prompt in prompts]]


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if the blind reward is fooled, and the reading one can tell and is not.

    Fooled: a target under a wrong prompt beats the generator's samples under right ones more often
    than not. It can tell if at least three of four pictures score higher under their own prompt.
    """
    tells = mean_of(values_of(rows, READING, "own_prompt_wins"))
    blind = mean_of(values_of(rows, BLIND, "own_prompt_wins"))
    fooled = mean_of(values_of(rows, BLIND, "wrong_beats_plain"))
    less = gain(rows, BLIND, READING, "wrong_beats_plain")
    left = mean_of(values_of(rows, READING, "wrong_beats_plain"))
    separation = {name: mean_of(values_of(rows, name, "auc")) for name in SETTINGS}
    ranking = gain(rows, READING, BLIND, "rank_correlation")
    return Verdict(
        all_of([above(fooled, 0.5), above(less), above(tells, TELLS)]),
        f"own prompt wins: {tells} if it reads prompts, {blind.value:.2f} if not",
        (
            f"A target under a wrong prompt beats the generator's samples under right ones with a "
            f"chance of {fooled} by the reward without prompts, and of {left} by the one that "
            f"reads them, for which {tells} of the pictures score higher under their own prompt.",
            f"Reading costs: the AUC of right targets is {separation[READING].value:.2f} in place "
            f"of {separation[BLIND].value:.2f}, and the rank correlation with gold, over all "
            f"words, changes by {ranking}.",
            "The text half knows ten digits from thirty captions of 400 pictures, and the wrong "
            "prompts are other digits' names; finer mistakes are not tried.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the figures of both rewards."""
    for shift, setting in zip((-0.12, 0.12), SETTINGS, strict=True):
        means = [mean_of(values_of(rows, setting, figure)) for figure in FIGURES]
        places = (torch.arange(len(FIGURES)) + shift).tolist()
        draw_means_across(axes, places, means, label=setting)
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(FIGURES)), FIGURES.values(), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("chance, or correlation")
    axes.legend(fontsize=8)


CLAIM = Claim(
    name="G9",
    title="A reward that does not read prompts cannot tell a wrong one; one that does can",
    source="GAN-RM, arXiv 2506.13846: reviews at ICLR 2026, the reward has no text",
    how=(
        "In G1's world two rewards are fitted for 150 steps to the same 500 targets and 500 "
        "samples of the generator of the same words, on the trained tower: one sees pictures, "
        "the other the prompt's embedding too, and targets under wrong prompts as further "
        "negatives, which is what the library does for a conditional reward. The 500 held-out "
        "targets are then scored under their own words and under each other's. The claim holds "
        "if, by the first reward, targets under wrong words beat the generator's samples under "
        "right ones more often than not, and by the second less often, and if the second gives "
        "at least three of four pictures a higher score under their own word, by 95 % intervals "
        "over seeds."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
