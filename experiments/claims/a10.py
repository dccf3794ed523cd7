"""A10: the filter makes adversarial pairs precise, and pairs without it hurt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import mined, text_world
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.intervals import above, all_of, gain, mean_of, values_of
from rewardlab.mining import Funnel
from rewardlab.rounds.attacking import Mining, mine
from rewardlab.types import PreferencePairs

CLEAN = "clean pairs alone"
NONE = "no filter"
GATE = "gate alone"
FILTERED = "z > 1.96"
SETTINGS = (CLEAN, NONE, GATE, "z > 0", "z > 1", FILTERED, "z > 3")
TRAINED = (CLEAN, NONE, FILTERED)


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Mine an attack through a filter; refit the target and train a policy on it for some."""
    pairs, figures = mined_pairs(setting, seed, work)
    if setting not in TRAINED:
        return figures
    scene = mined.scene_of(work, seed)
    target = scene.target
    if pairs is not None and len(pairs):
        target = text_world.member(work, seed, 0, extra=pairs)
    proxy = mined.proxy_of(scene._replace(target=target))
    name = f"a10 {setting}".replace(" > ", "-").replace(" ", "-")
    run = mined.trained(work, name, seed, scene.policy, proxy, mined.STEPS)
    accuracy = mined.accuracy(target, mined.held_out_pairs(work))
    return {**figures, "clean_accuracy": accuracy, **mined.run_figures(work, seed, run.found)}


def mined_pairs(
    setting: str, seed: int, work: Work
) -> tuple[PreferencePairs | None, dict[str, float | None]]:
    """Return at most 100 pairs that pass a filter, drawn evenly, and how right all are."""
    if setting == CLEAN:
        return None, {"precision": None, "share": None}
    found, sides, gold = mined.judged_attack(work, seed)
    limit = limit_of(setting) / (100 if work.small else 1)  # else nothing passes of so few
    mining = Mining(z=limit, cap=mined.ADDED, pick="random", chosen="first")
    pairs, funnel = mine(found, sides, mining, seed=seed, judged=gold)
    step = {NONE: "unique", GATE: "gated"}.get(setting, "disagreeing")
    if setting == NONE:
        pairs = mined.against(sides.references, mined.some(found, mined.ADDED, seed))
    return pairs, figures_of(funnel, step)


def limit_of(setting: str) -> float:
    """Return the z of a setting; one that all pass where there is none."""
    return float(setting.split()[-1]) if setting.startswith("z") else -1e6


def figures_of(funnel: Funnel, step: str) -> dict[str, float | None]:
    """Return the precision of a step of the filter, and the share of outputs that reach it."""
    assert funnel.precision is not None
    share = funnel.counts[step] / funnel.counts["unique"]
    return {"precision": funnel.precision[step], "share": share}


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if z > 1.96 beats no filter in precision, accuracy and gold of RLHF."""
    precision = gain(rows, FILTERED, NONE, "precision")
    accuracy = gain(rows, FILTERED, NONE, "clean_accuracy")
    gold = gain(rows, FILTERED, NONE, "gold_of_run")
    bare = mean_of(values_of(rows, NONE, "precision"))
    strict = mean_of(values_of(rows, "z > 3", "precision"))
    harm = gain(rows, NONE, CLEAN, "clean_accuracy")
    beside = gain(rows, NONE, CLEAN, "gold_of_run")
    return Verdict(
        all_of([above(precision), above(accuracy), above(gold)]),
        f"z > 1.96 beside no filter: precision {precision}, clean accuracy {accuracy}, "
        f"gold of RLHF {gold}",
        (
            f"Of what an adversary drew, gold prefers the reference in {bare} of all and in "
            f"{strict} of what passes z > 3.",
            f"A hundred unfiltered pairs move clean accuracy by {harm}, and the mean gold of a "
            f"short RLHF by {beside} deviations, both beside no pairs at all.",
            "The share of right pairs without a filter rises with the length of the attack, since "
            "its early outputs are the base policy's; here it is 60 steps.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the precision of each filter over the share of outputs that passes."""
    measured = [row["setting"] for row in rows]
    for setting in [name for name in SETTINGS[1:] if name in measured]:
        shares = values_of(rows, setting, "share")
        precisions = values_of(rows, setting, "precision")
        if len(precisions) > 1:
            mean = mean_of(precisions)
            width = [[mean.value - mean.low], [mean.high - mean.value]]
            place = sum(shares) / len(shares)
            axes.errorbar([place], [mean.value], yerr=width, marker="o", capsize=3, label=setting)
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set_xlabel("share of the adversary's different outputs that passes")
    axes.set_ylabel("gold prefers the reference, share")
    axes.legend()


CLAIM = Claim(
    name="A10",
    title="The filter makes adversarial pairs right, and pairs without it hurt",
    source="Adv-RM, arXiv 2504.06141, section 3",
    how=(
        "An adversary is trained by RLOO for 60 steps against two members of 1,000 pairs of the "
        "help topics, and all that it drew is mined: gate on the target's score, then signed "
        "disagreement above z deviations of the references'. Precision is the share of all that "
        "passes whose prompt's first reference gold prefers. For three settings a hundred pairs, "
        "drawn evenly, join the clean ones, the target is refitted, judged on 512 clean pairs of "
        "held-out prompts, and a policy is trained on it by RLOO without KL for 60 steps; gold is "
        "in deviations above the mean reference, over the whole run and over its last ten steps. "
        'The other settings are mined only: their cells say "not reached".'
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
    small_settings=(*TRAINED, "z > 3"),
)
