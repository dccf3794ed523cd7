"""G7: how many labelled pairs are worth 500 targets without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.image_world import (
    by_word,
    dice,
    fitted,
    ink,
    parts,
    pool,
    rank_correlation,
    trainer_of,
    unseen,
)
from claims.intervals import Interval, above, mean_of, values_of
from rewardlab.data.preferences import Preferences
from rewardlab.embedded import digits
from rewardlab.embedded.digit_data import WORDS
from rewardlab.metrics import best_of_n_expected
from rewardlab.rewards import VisionReward
from rewardlab.rewards.scoring import scores_of
from rewardlab.training import AdvRM
from rewardlab.types import PreferencePairs, Samples

COUNTS = (30, 100, 300, 1000, 3000)
TARGETS = 500
UNLABELLED = f"{TARGETS} targets"
SETTINGS = (UNLABELLED, *(f"{count} pairs" for count in COUNTS))
FLIPPED = 0.2
DECISIVE = "rank_correlation"  # within a word


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Fit a reward to 500 targets, or to labelled pairs, and rank held-out samples of each word."""
    targets, negatives, _, base = taken = parts(work, TARGETS, seed)
    steps = 20 if work.small else 300
    if setting == UNLABELLED:
        reward = fitted(targets, negatives, seed, steps=steps)
    else:
        fresh = unseen(pool(work), taken, seed)
        pairs = labelled(fresh, pool(work), seed)[: int(setting.split()[0])]
        reward = fitted_to_pairs(pairs, seed, steps)
    scores = scores_of(reward, base)
    gold = ink(base, pool(work))
    words = torch.tensor([WORDS.index(str(word)) for word in base.prompts])
    ranks = [rank_correlation(scores[words == one], gold[words == one]) for one in words.unique()]
    return {
        "rank_correlation": sum(ranks) / len(ranks),
        "over_all_words": rank_correlation(scores, gold),
        "gold_of_best_of_16": best_of_n_expected(scores, gold, 16),
    }


def labelled(samples: Samples, everything: Samples, seed: int) -> PreferencePairs:
    """Return pairs of samples of one word, the one with more ink preferred but for 20 % of them.

    Prompts are left out, which the reward does not read.
    """
    ordered = by_word(samples)
    even = len(ordered) // len(WORDS) // 2 * 2
    rows = torch.arange(len(ordered)).view(len(WORDS), -1)[:, :even]
    first = ordered[rows[:, 0::2].T.flatten()]
    second = ordered[rows[:, 1::2].T.flatten()]
    more = ink(first, everything) > ink(second, everything)
    flipped = torch.rand(len(first), generator=dice(seed, "labels")) < FLIPPED
    wins = (more != flipped)[:, None, None, None]
    chosen = torch.where(wins, first.outputs, second.outputs)
    rejected = torch.where(wins, second.outputs, first.outputs)
    prompts = [""] * len(first)
    return PreferencePairs(Samples(prompts, chosen), Samples(prompts, rejected))


def fitted_to_pairs(pairs: PreferencePairs, seed: int, steps: int) -> VisionReward:
    """Return a reward of the same tower and heads, fitted by Bradley and Terry's loss.

    A step sees 32 pairs, as many pictures as a step on targets; the optimiser is the same, and a
    tenth is held out too.
    """
    reward = digits.tower_reward(heads=4, seed=0)
    optimizer = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.1)
    loop = AdvRM(reward, optimizer=optimizer, seed=seed)
    trainer_of(steps).fit(loop, Preferences(pairs, held_out=0.1, batch_size=32, seed=seed))
    return reward.eval()


def break_even(rows: Sequence[Row]) -> list[float]:
    """Return for each seed log10 of the pairs at which labels overtake targets, by lines between.

    A seed in which they never do counts as the most pairs, one in which they always do as the
    fewest.
    """
    counts = measured(rows)
    curves = [values_of(rows, f"{count} pairs", DECISIVE) for count in counts]
    by_seed = zip(values_of(rows, UNLABELLED, DECISIVE), *curves, strict=True)
    places = [math.log10(count) for count in counts]
    return [crossing(places, curve, level) for level, *curve in by_seed]


def measured(rows: Sequence[Row]) -> list[int]:
    """Return the numbers of pairs that rows are of."""
    settings = {row["setting"] for row in rows}
    return [count for count in COUNTS if f"{count} pairs" in settings]


def crossing(places: Sequence[float], curve: Sequence[float], level: float) -> float:
    """Return where a curve first rises to a level: its ends if it begins above, or never does.

    Example:
        >>> crossing([1.0, 2.0, 3.0], [0.1, 0.3, 0.5], 0.4)
        2.5
    """
    if curve[0] >= level:
        return places[0]
    for end in range(1, len(curve)):
        if curve[end] >= level:
            share = (level - curve[end - 1]) / (curve[end] - curve[end - 1])
            return places[end - 1] + share * (places[end] - places[end - 1])
    return places[-1]


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if labels overtake 500 targets at more than 500 pairs."""
    crossings = break_even(rows)
    log_pairs = mean_of(crossings)
    pairs = Interval(*(10**value for value in log_pairs))
    text = f"{pairs.value:.0f} [{pairs.low:.0f}, {pairs.high:.0f}]"
    never = sum(value >= math.log10(COUNTS[-1]) for value in crossings)
    targets = mean_of(values_of(rows, UNLABELLED, DECISIVE))
    most = mean_of(values_of(rows, f"{COUNTS[-1]} pairs", DECISIVE))
    few = mean_of(values_of(rows, f"{COUNTS[0]} pairs", DECISIVE))
    return Verdict(
        above(log_pairs, math.log10(TARGETS)),
        f"labels overtake 500 targets at {text} pairs",
        (
            f"A reward from 500 targets ranks the samples of a word as gold does with a "
            f"correlation of {targets}; labels reach that at {text} pairs, where the {never} of "
            f"{len(crossings)} seeds in which {COUNTS[-1]} are not enough count as {COUNTS[-1]}.",
            f"With {COUNTS[0]} pairs their correlation is {few.value:.2f}, with {COUNTS[-1]} it is "
            f"{most.value:.2f}; the paper sets some 500 targets beside about a million pairs.",
            f"{FLIPPED:.0%} of the labels are flipped, whatever the difference, and the pairs are "
            "the generator's own; the targets differ from it in just what the labels ask about, "
            "which is the best case for targets.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the correlation over the number of pairs, beside that of 500 targets."""
    counts = measured(rows)
    settings = [f"{count} pairs" for count in counts]
    draw_means(
        axes, counts, means_of(rows, settings, DECISIVE), label="labelled pairs, 20 % flipped"
    )
    targets = mean_of(values_of(rows, UNLABELLED, DECISIVE))
    axes.axhline(targets.value, color="C1", label="500 targets without labels")
    axes.axhspan(targets.low, targets.high, color="C1", alpha=0.2)
    pairs = mean_of(break_even(rows))
    axes.axvspan(10**pairs.low, 10**pairs.high, color="grey", alpha=0.2, label="break-even")
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labelled pairs")
    axes.set_ylabel("rank correlation with gold within a word")
    axes.legend(fontsize=8)


CLAIM = Claim(
    name="G7",
    title="500 targets without labels are worth more than as many labelled pairs",
    source="GAN-RM, arXiv 2506.13846: 500 targets beside Diffusion-DPO's million of labelled pairs",
    how=(
        "In G1's world one reward is fitted to 500 targets and 500 samples of the generator, and "
        "others, of the same tower and heads, to pairs of the generator's samples of one word, "
        "labelled by gold with 20 % of the labels flipped, by Bradley and Terry's loss. All take "
        "300 steps of 64 pictures with one optimiser. The figure is the rank correlation with "
        "gold within a word, the mean of ten, on 500 held-out samples. The break-even of a seed "
        "is where the line between its points, over log pairs, first reaches the targets' figure "
        "(3,000 if it never does). The claim holds if the 95 % interval of its geometric mean is "
        "above 500 pairs, and fails if it is below."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
    small_settings=(UNLABELLED, f"{COUNTS[0]} pairs", f"{COUNTS[-1]} pairs"),
)
