"""A13: members learn best from the pairs of all rounds, which attackers that begin anew found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claims import mined, text_world
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.curves import draw_means, means_of
from claims.intervals import above, all_of, gain, mean_of, values_of
from claims.text_world import Scene
from rewardlab.rounds.attacking import Mining, Sides, mine
from rewardlab.types import PreferencePairs, Samples, concatenate

BEST = "all rounds' pairs, fresh attacker"
LAST = "last round's pairs, fresh attacker"
CONTINUED = "all rounds' pairs, attacker goes on"
SETTINGS = (BEST, LAST, CONTINUED)
SHORT = {BEST: "all, fresh", LAST: "last, fresh", CONTINUED: "all, goes on"}
STEPS = 40  # of the second attack, and of the one that measures


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Harden in two rounds, attack what comes out afresh, and measure the attack's success."""
    scene = mined.scene_of(work, seed)
    first = mined.first_attack(work, seed)
    pairs = pairs_of(mined.sides_of(scene), first.found, seed)
    once = refitted(scene, work, seed, pairs)
    start = first.policy if setting == CONTINUED else scene.policy
    name = "a13-second-continued" if setting == CONTINUED else "a13-second-fresh"
    attack = text_world.attack_on(once)
    second = mined.trained(work, name, seed, start, attack, STEPS)
    later = pairs_of(mined.sides_of(once), second.found, seed)
    kept = [later] if setting == LAST else [pairs, later]
    twice = refitted(scene, work, seed, *kept)
    name = "a13-third-" + SHORT[setting].replace(", ", "-").replace(" ", "-")
    third = mined.trained(work, name, seed, scene.policy, text_world.attack_on(twice), STEPS)
    figures = text_world.rates(text_world.success(twice, mined.fresh_of(third.policy, scene, seed)))
    old = text_world.success(twice, mined.fresh_of(first.policy, scene, seed))
    return {
        **figures,
        "first_attack_success": old.attack.standard.value,
        "clean_accuracy": mined.accuracy(twice.target, mined.held_out_pairs(work)),
        "pairs": float(sum(len(part) for part in kept)),
    }


def pairs_of(sides: Sides, found: Samples, seed: int) -> PreferencePairs:
    """Return at most 100 pairs of what an adversary drew, as the library mines by default."""
    pairs, _ = mine(found, sides, Mining(cap=mined.ADDED), seed=seed)
    return pairs


def refitted(scene: Scene, work: Work, seed: int, *parts: PreferencePairs) -> Scene:
    """Return the scene with both members fitted anew, to clean pairs and these."""
    pairs: PreferencePairs = concatenate(parts)
    extra = pairs if len(pairs) else None
    target, witness = [text_world.member(work, seed, number, extra=extra) for number in (0, 1)]
    return scene._replace(target=target, witness=witness)


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if a fresh attack succeeds more often on both of the other settings."""
    last = gain(rows, LAST, BEST, "success")
    continued = gain(rows, CONTINUED, BEST, "success")
    best = mean_of(values_of(rows, BEST, "success"))
    old_all = mean_of(values_of(rows, BEST, "first_attack_success"))
    old_last = mean_of(values_of(rows, LAST, "first_attack_success"))
    return Verdict(
        all_of([above(last), above(continued)]),
        f"a fresh attack's success, beside all pairs and fresh attackers: last round's pairs "
        f"{last}, attacker goes on {continued}",
        (
            f"After two rounds with all pairs and fresh attackers a further fresh attack succeeds "
            f"with {best}; with the last round's pairs alone it is {last} more, with an attacker "
            f"that goes on {continued} more.",
            f"What the first attack's adversary writes still succeeds with {old_all} where its "
            f"pairs stayed, and with {old_last} where they were dropped.",
            "Two rounds of a hundred pairs beside 1,000 clean ones, and attacks of 40 to 60 "
            "steps; more rounds have more to forget.",
        ),
    )


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the success of a fresh attack and of the first round's, with intervals."""
    labels = {"success": "a fresh attack", "first_attack_success": "the first round's adversary"}
    for offset, (figure, label) in zip((-0.1, 0.1), labels.items(), strict=True):
        places = [place + offset for place in range(len(SETTINGS))]
        means = means_of(rows, SETTINGS, figure)
        draw_means(axes, places, means, fmt="o", capsize=4, label=label)
    axes.set_xticks(range(len(SETTINGS)), [setting.replace(", ", ",\n") for setting in SETTINGS])
    axes.set_ylabel("success on the twice hardened target, share")
    axes.legend()


CLAIM = Claim(
    name="A13",
    title="Pairs of all rounds, from attackers that begin anew, harden best",
    source="A²RM and iterated RLHF (Wolf, 2025), for rounds such as those of Adv-RM",
    how=(
        "Two rounds of Adv-RM on the help topics: attack by RLOO (60 steps, then 40), mine at "
        "most a hundred pairs at z > 1.96, refit both members on clean and adversarial pairs. "
        "The second fit gets the pairs of both rounds or of the second alone; the second "
        "adversary starts from the base policy or goes on from the first. A third adversary, "
        "always from the base policy, attacks what comes out for 40 steps; its fresh responses' "
        "success on 256 prompts is the measure. The best-of-n column is its floor."
    ),
    settings=SETTINGS,
    measure=measure,
    judge=judge,
    draw=draw,
)
