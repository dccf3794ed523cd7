"""G3: the best of n by the reward gets better with n, by gold and by the distance to targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.image_world import by_word, fitted, ink, parts, pool, unseen
from claims.intervals import Interval, above, all_of, gain, mean_of, values_of
from rewardlab.embedded.digit_data import WORDS
from rewardlab.embedded.digits import DigitJudge
from rewardlab.evaluation.choosing_n import best_of_each_n
from rewardlab.evaluation.features import features_of
from rewardlab.metrics import best_of_n_kl, kernel_distance
from rewardlab.mining import extremes
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples

NS = (1, 2, 4, 8, 16, 64)
SETTINGS = tuple(f"best of {n}" for n in NS)
ONE, FOUR, SIXTEEN, MOST = "best of 1", "best of 4", "best of 16", "best of 64"


class Candidates(NamedTuple):
    """Samples that the reward has not seen, those of a word together.

    Attributes:
        samples: [P·N], N of each of P words.
        proxy: [P, N], the reward's scores, in deviations of all.
        gold: [P, N].
        wanted: the judge's features of held-out targets, [500, D].
    """

    samples: Samples
    proxy: Tensor
    gold: Tensor
    wanted: Tensor


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Estimate proxy and gold of the best of n, and the distance of such samples to targets."""
    found = candidates(work, seed)
    n = min(int(setting.split()[-1]), found.proxy.shape[1])
    chosen = features_of(DigitJudge(), best(found, n))
    scale = found.wanted.square().mean().sqrt()
    return {
        "proxy": best_of_each_n(found.proxy, found.proxy, [n]).mean().item(),
        "gold": best_of_each_n(found.proxy, found.gold, [n]).mean().item(),
        "gold_by_gold": best_of_each_n(found.gold, found.gold, [n]).mean().item(),
        "distance": kernel_distance(chosen / scale, found.wanted / scale),
    }


@cache
def candidates(work: Work, seed: int) -> Candidates:
    """Return a fresh reward's scores of what neither it nor the held-out part has seen."""
    everything = pool(work)
    taken = parts(work, 500, seed)
    targets, negatives, held_out, _ = taken
    reward = fitted(targets, negatives, seed, steps=20 if work.small else 300)
    samples = by_word(unseen(everything, taken, seed))
    proxy = scores_of(reward, samples)
    proxy = (proxy - proxy.mean()) / proxy.std()
    gold = ink(samples, everything)
    shape = (len(WORDS), -1)
    wanted = features_of(DigitJudge(), held_out)
    return Candidates(samples, proxy.view(shape), gold.view(shape), wanted)


def best(found: Candidates, n: int) -> Samples:
    """Return the best of n different candidates, as many times for each n: N // 64 of a word."""
    count = found.proxy.shape[1]
    groups = max(1, count // NS[-1])
    first = torch.arange(len(WORDS))[:, None] * count
    rows = (first + torch.arange(groups * n)).flatten()
    if n == 1:
        return found.samples[rows]
    return extremes(found.samples[rows], found.proxy.flatten()[rows], n).chosen


def diminishing(rows: Sequence[Row]) -> Interval:
    """Return gold's gain from 1 to 4, less that from 16 to 64, by seed."""
    columns = [values_of(rows, setting, "gold") for setting in (ONE, FOUR, SIXTEEN, MOST)]
    return mean_of([(b - a) - (d - c) for a, b, c, d in zip(*columns, strict=True)])


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if gold rises with every factor of four, less at last, and distance falls."""
    steps = [gain(rows, *pair, "gold") for pair in ((FOUR, ONE), (SIXTEEN, FOUR), (MOST, SIXTEEN))]
    nearer = gain(rows, ONE, MOST, "distance")
    text = str(Interval(*(1000 * value for value in nearer)))
    proxy = gain(rows, MOST, SIXTEEN, "proxy")
    gold = mean_of(values_of(rows, MOST, "gold"))
    possible = mean_of(values_of(rows, MOST, "gold_by_gold"))
    far = mean_of(values_of(rows, ONE, "distance"))
    middle = mean_of(values_of(rows, SIXTEEN, "distance"))
    near = mean_of(values_of(rows, MOST, "distance"))
    return Verdict(
        all_of([*map(above, steps), above(diminishing(rows)), above(nearer)]),
        f"gold {gold} deviations at 64; the distance times 1,000 falls by {text}",
        (
            f"Gold rises by {steps[0]} deviations from 1 to 4, by {steps[1]} to 16 and by "
            f"{steps[2]} to 64, and the distance to held-out targets is {far.value:.4f} at 1, "
            f"{middle.value:.4f} at 16 and {near.value:.4f} at 64.",
            f"From 16 to 64 the proxy still rises by {proxy} deviations, and gold's own choice of "
            f"64 would have {possible.value:.2f} of gold.",
            f"Candidates are those of one word, as in use; the best of {NS[-1]} is "
            f"{best_of_n_kl(NS[-1]):.1f} nats from the generator, and what an optimiser does "
            "farther away is not measured here.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw proxy and gold over n, and the distance on an axis of its own."""
    draw_means(axes, NS, means_of(rows, SETTINGS, "proxy"), label="proxy")
    draw_means(axes, NS, means_of(rows, SETTINGS, "gold"), label="gold")
    draw_means(
        axes, NS, means_of(rows, SETTINGS, "gold_by_gold"), label="gold, chosen by gold", ls=":"
    )
    beside = axes.twinx()
    style = {"label": "distance (right)", "color": "grey", "ls": "--", "marker": "s"}
    draw_means(beside, NS, means_of(rows, SETTINGS, "distance"), **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(NS, [str(n) for n in NS])
    axes.set_xlabel("n, candidates of a word")
    axes.set_ylabel("deviations of the generator's samples")
    beside.set_ylabel("kernel distance to held-out targets")
    beside.set_ylim(bottom=0)
    lines, names = axes.get_legend_handles_labels()
    more, more_names = beside.get_legend_handles_labels()
    axes.legend(lines + more, names + more_names, fontsize=8, loc="lower right")


CLAIM = Claim(
    name="G3",
    title="The best of n improves with n, with diminishing returns",
    source="GAN-RM, arXiv 2506.13846, section 3.3",
    how=(
        "A reward is fitted to 500 targets of G1's world. Some 1,800 samples of each word that "
        "neither it nor the held-out part has seen are the candidates: proxy and gold of the best "
        "of n are the unbiased estimates over all subsets of n, averaged over the ten words. The "
        "distance is the unbiased kernel distance (KID) in the features of the digits' judge, "
        "which is no part of the reward, scaled to a mean square of 1, between 500 held-out "
        "targets and the best of some 280 disjoint groups of n. The claim holds if gold rises "
        "from 1 to 4 to 16 to 64, less at the last step than at the first, and the distance is "
        "smaller at 64 than at 1."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
