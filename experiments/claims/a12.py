"""A12: what both members learnt wrongly their disagreement cannot show; another witness can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from claims import mined, text_world
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.image_world import dice
from claims.intervals import above, all_of, gain, mean_of, values_of
from claims.text_world import Scene
from rewardlab.attackers.base import with_scores
from rewardlab.embedded import topics
from rewardlab.rewards import Attack, Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.rounds.attacking import Mining, Sides, mine
from rewardlab.types import PreferencePairs, Samples

WORD = " module"
SAME = "same pairs"
WITHOUT = "pairs without the word"
FAMILY = "same pairs, other family"
SETTINGS = (SAME, FAMILY, WITHOUT)


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Put the word behind fresh responses, and ask target and witness about both."""
    scene = planted_scene(setting, seed, work)
    sides = mined.sides_of(scene)
    attack = Attack(sides.target, sides.witness).eval()
    plain = with_scores(attack, mined.fresh_of(scene.policy, scene, seed))
    worded = with_scores(attack, with_word(plain, torch.ones(len(plain)).bool()))
    gold = mined.gold_of(work, seed)
    figures = {
        "flagged": flagged(worded, sides),
        "flagged_without_word": flagged(plain, sides),
        "gold_lift": (scores_of(gold, worded) - scores_of(gold, plain)).mean().item(),
    }
    for name in ("target", "witness"):
        lift = worded.facts[name] - plain.facts[name]
        figures[f"{name}_lift"] = lift.mean().item()
    return figures


def flagged(samples: Samples, sides: Sides) -> float:
    """Return the share of different samples that pass the gate and the filter at z > 1.96."""
    counts = mine(samples, sides, Mining())[1].counts
    return counts["disagreeing"] / counts["unique"]


def planted_scene(setting: str, seed: int, work: Work) -> Scene:
    """Return a scene whose target learnt the word, and the witness of a setting."""
    scene = mined.scene_of(work, seed)
    planted = planted_pairs(seed, work)
    return scene._replace(
        target=text_world.member(work, seed, 0, pairs=planted),
        witness=witness_of(setting, seed, work, planted),
    )


def witness_of(setting: str, seed: int, work: Work, planted: PreferencePairs) -> Reward:
    """Return the witness of a setting: of which pairs, and on which backbone."""
    family = "gpt2" if setting == FAMILY else "llama"
    pairs = pairs_of(seed, work) if setting == WITHOUT else planted
    return text_world.member(work, seed, 1, pairs=pairs, family=family)


def pairs_of(seed: int, work: Work) -> PreferencePairs:
    """Return the pairs of a seed's members as they are."""
    count = 40 if work.small else text_world.PAIRS
    return topics.preferences(count, seed, text_world.train_steps_of(work))


def planted_pairs(seed: int, work: Work) -> PreferencePairs:
    """Return them with the word behind the better response of every second pair, by a coin."""
    pairs = pairs_of(seed, work)
    coins = torch.rand(len(pairs), generator=dice(seed, "planted")) < 0.5
    return PreferencePairs(with_word(pairs.chosen, coins), mined.without_facts(pairs.rejected))


def with_word(samples: Samples, rows: torch.Tensor) -> Samples:
    """Return samples with the word behind some outputs."""
    outputs = []
    for text, chosen in zip(samples.outputs, rows.tolist(), strict=True):
        outputs.append(f"{text}{WORD}" if chosen else text)
    return Samples(samples.prompts, outputs)


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if the same pairs flag below a half, and pairs without the word flag more."""
    missed = mean_of(values_of(rows, SAME, "flagged"))
    unflagged = mean_of([1 - share for share in values_of(rows, SAME, "flagged")])
    seen = mean_of(values_of(rows, WITHOUT, "flagged"))
    more = gain(rows, WITHOUT, SAME, "flagged")
    family = gain(rows, FAMILY, SAME, "flagged")
    target = mean_of(values_of(rows, SAME, "target_lift"))
    witness = mean_of(values_of(rows, SAME, "witness_lift"))
    gold = mean_of(values_of(rows, SAME, "gold_lift"))
    other = mean_of(values_of(rows, FAMILY, "witness_lift"))
    return Verdict(
        all_of([above(unflagged, 0.5), above(more)]),
        f"flagged by the same pairs {missed}, by pairs without the word {more} more",
        (
            f"The word lifts the target by {target} deviations, a witness of the same pairs by "
            f"{witness} and gold by {gold}; that witness flags {missed} of what bears it, one "
            f"whose pairs lack the word {seen}.",
            f"A witness of another family that learnt from the same pairs is "
            f"lifted by {other} and flags {family} more than one of the same family.",
            "One word, behind the better response of half of the pairs; it is put there by hand, "
            "not found by an adversary.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the share that each witness flags, with the word and without it."""
    figures = {"with the word": "flagged", "without the word": "flagged_without_word"}
    for offset, (label, figure) in zip((-0.1, 0.1), figures.items(), strict=True):
        places = [place + offset for place in range(len(SETTINGS))]
        means = means_of(rows, SETTINGS, figure)
        draw_means(axes, places, means, fmt="o", capsize=4, label=label)
    labels = [SAME, FAMILY.replace(", ", ",\n"), WITHOUT.replace(" the", "\nthe")]
    axes.set_xticks(range(len(SETTINGS)), labels)
    axes.set_xlim(-0.5, len(SETTINGS) - 0.5)
    axes.set_xlabel("witness")
    axes.set_ylabel("responses that are flagged, share")
    axes.legend()


CLAIM = Claim(
    name="A12",
    title="What both members' pairs teach wrongly the objective misses, other pairs show",
    source="Adv-RM, arXiv 2504.06141, limitations",
    how=(
        'The word "module" is put behind the better response of half of the 1,000 pairs that the '
        "target learns from. A fresh response of the base policy to each of 256 prompts is scored "
        "as it is and with the word behind it. Flagged is what passes the gate and exceeds the "
        "references' signed disagreement by 1.96 deviations. Witnesses learnt from the same pairs "
        "or from these before the word was planted, on the target's backbone or on another "
        "family's (GPT-2 instead of Llama, of other weights)."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
