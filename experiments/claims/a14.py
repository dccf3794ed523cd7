"""A14: retraining on the policy's own outputs as rejected, without a filter, amplifies hacking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import mined, text_world
from claims.claim import Claim, Figures, Row, Verdict, Word, Work
from claims.intervals import Interval, gain, mean_of, values_of
from claims.text_world import Scene
from rewardlab.attackers.base import with_scores
from rewardlab.rounds.attacking import Mining, mine
from rewardlab.types import PreferencePairs, Samples

PLAIN = "no retraining"
NAIVE = "own outputs, no filter"
FILTERED = "own outputs, gate and z > 1.96"
SETTINGS = (PLAIN, NAIVE, FILTERED)
EARLY_STEPS = 30  # as long as the policy of a plain run is better than its start, by gold


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Retrain the target on a policy's outputs, and train a policy anew on what comes out."""
    scene = mined.scene_of(work, seed)
    plain = mined.without_pairs(work, seed).found
    found = plain
    figures: dict[str, float | None] = {"pairs": 0.0, "precision": None}
    if setting != PLAIN:
        pairs = pairs_of(setting, seed, work, plain)
        figures = {"pairs": float(len(pairs)), "precision": precision_of(pairs)}
        extra = pairs if len(pairs) else None
        scene = scene._replace(target=text_world.member(work, seed, 0, extra=extra))
        name = "a14-" + setting.replace(",", "").replace(" > ", "-").replace(" ", "-")
        reward = mined.proxy_of(scene)
        run = mined.trained(work, name, seed, scene.policy, reward, mined.STEPS)
        found = run.found
    figures["clean_accuracy"] = mined.accuracy(scene.target, mined.held_out_pairs(work))
    hacked = {"hacked_at_end": hacked_share(found, scene)}
    return {**figures, **mined.run_figures(work, seed, found), **hacked}


def pairs_of(setting: str, seed: int, work: Work, found: Samples) -> PreferencePairs:
    """Return at most 100 pairs of references over what a policy drew in training."""
    scene = mined.scene_of(work, seed)
    early = found[found.facts["step"] < EARLY_STEPS]
    if setting != FILTERED:
        return mined.against(scene.references, mined.some(early, mined.ADDED, seed))
    scored = with_scores(text_world.attack_on(scene), early)
    mining = Mining(cap=mined.ADDED, pick="random", chosen="first")
    pairs, _ = mine(scored, mined.sides_of(scene), mining, seed=seed)
    return pairs


def precision_of(pairs: PreferencePairs) -> float | None:
    """Return the share of pairs whose chosen half gold prefers."""
    return mined.accuracy(text_world.gold(), pairs) if len(pairs) else None


def hacked_share(found: Samples, scene: Scene) -> float:
    """Return the strict success of the last ten steps' outputs: proxy up, gold far down."""
    steps = found.facts["step"]
    late = found[steps >= steps.max() - 9]
    return text_world.success(scene, late).attack.strict.value


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if retraining without a filter lowers the gold of RLHF, beside none."""
    change = gain(rows, NAIVE, PLAIN, "gold_of_run")
    hacked = gain(rows, NAIVE, PLAIN, "hacked_at_end")
    filtered = gain(rows, FILTERED, PLAIN, "gold_of_run")
    right = mean_of(values_of(rows, NAIVE, "precision"))
    accuracy = gain(rows, NAIVE, PLAIN, "clean_accuracy")
    return Verdict(
        word_of(change),
        f"gold of RLHF {change} beside no retraining, hacked outputs {hacked}",
        (
            f"Of pairs that reject the policy's own outputs gold agrees with {right}; retraining "
            f"on them moves the mean gold of the next run by {change} deviations and clean "
            f"accuracy by {accuracy}.",
            f"With gate and filter on the same outputs gold moves by {filtered}.",
            "One retraining on outputs of the first half of a run, where they are the least "
            "hacked; the next policy starts anew from the base; a hundred pairs beside 1,000.",
        ),
    )


def word_of(change: Interval) -> Word:
    """Return "holds" for a fall of gold."""
    if change.high < 0:
        return "holds"
    return "fails" if change.low > 0 else "undecided"


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw gold over proxy, a faint point a seed, and each setting's mean with its interval."""
    for number, setting in enumerate(SETTINGS):
        proxy = values_of(rows, setting, "proxy_at_end")
        gold = values_of(rows, setting, "gold_of_run")
        color = f"C{number}"
        axes.scatter(proxy, gold, color=color, alpha=0.35)
        mean = mean_of(gold)
        width = mean.high - mean.value
        place = mean_of(proxy).value
        axes.errorbar(place, mean.value, width, fmt="o", color=color, capsize=4, label=setting)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("the policy's own reward at the end, deviations of the references")
    axes.set_ylabel("mean gold of the run, deviations")
    axes.legend(fontsize=8)


CLAIM = Claim(
    name="A14",
    title="Retraining on the policy's own outputs without a filter amplifies hacking",
    source="arXiv 2605.04266 (alignment collapse), on Adv-RM, arXiv 2504.06141",
    how=(
        "A policy is trained by RLOO without KL for 60 steps on a target of 1,000 pairs of the "
        "help topics. A hundred of its outputs of the first 30 steps become rejected "
        "examples against their prompt's first reference: of all, or of those that pass the gate "
        "and z > 1.96. The target is refitted on clean and new pairs, and a policy is "
        "trained on it from the base, as before. Gold is in deviations above the mean reference, "
        "over all that is drawn in training; hacked is the paper's strict success in the last ten "
        "steps."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
