"""A11: an attack on one reward seldom works on a reward of another family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from claims import attacks, text_world
from claims.claim import Claim, Figures, Row, Verdict, Work
from claims.intervals import Interval, above, all_of, mean_of, values_of
from claims.text_world import Scene
from rewardlab.evaluation.transfer import transfer
from rewardlab.rewards import Reward
from rewardlab.types import Samples

LLAMA = "adversary on a Llama"
GPT2 = "adversary on a GPT-2"
PLAIN = "plain RLHF on the Llama"
TRIED = {
    "itself": "itself",
    "same_pairs": "same pairs,\nanother seed",
    "other_pairs": "other pairs",
    "other_family": "another\nfamily",
}


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Attack one member, and try what was found on others."""
    scene = gpt2_scene(work, seed) if setting == GPT2 else attacks.scene_of(work, seed)
    found = found_by(setting, seed, work, scene)
    rewards = rewards_of(setting, seed, work, scene)
    success = transfer({setting: found}, rewards, text_world.gold(), scene.references)[setting]
    figures: dict[str, float | None] = {}
    for name, result in success.items():
        figures[name] = result.attack.standard.value
        figures[f"{name}_strict"] = result.attack.strict.value
        figures[f"{name}_passes_gate"] = result.attack.accepted.value
    figures["floor"] = success["other_family"].fresh.standard.value
    return figures


def gpt2_scene(work: Work, seed: int) -> Scene:
    """Return the scene of a seed with members of the other family, of the same pairs."""
    member = partial(text_world.member, work, seed, family="gpt2")
    return attacks.scene_of(work, seed)._replace(target=member(number=0), witness=member(number=1))


def found_by(setting: str, seed: int, work: Work, scene: Scene) -> Samples:
    """Return what an attack found, a response a prompt."""
    if setting == LLAMA:
        return attacks.adversary(work, seed)
    if setting == PLAIN:
        return attacks.plain(work, seed)

    def make() -> Samples:
        attack = text_world.attack_on(scene)
        return text_world.adversary(scene, attack, seed, steps=attacks.steps_of(work))

    return attacks.kept(work, "adversary-1-gpt2", seed, make)


def rewards_of(setting: str, seed: int, work: Work, scene: Scene) -> dict[str, Reward]:
    """Return the rewards that an attack is tried on: none but the first had a part in it."""
    family, other = ("gpt2", "llama") if setting == GPT2 else ("llama", "gpt2")
    member = partial(text_world.member, work)
    return {
        "itself": scene.target,
        "same_pairs": member(seed, 2, family=family),
        "other_pairs": member((seed + 1) % 5, 0, family=family),
        "other_family": member(seed, 0, family=other),
    }


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if success on the other family is below half of that on the reward itself."""
    both = (LLAMA, GPT2)
    rest = {name: short_of_half(rows, name) for name in both}
    to = {name: mean_of(values_of(rows, name, "other_family")) for name in (*both, PLAIN)}
    own = {name: mean_of(values_of(rows, name, "itself")) for name in both}
    siblings = mean_of(values_of(rows, LLAMA, "same_pairs"))
    others = mean_of(values_of(rows, LLAMA, "other_pairs"))
    floor = mean_of(values_of(rows, LLAMA, "floor"))
    return Verdict(
        all_of([above(interval) for interval in rest.values()]),
        f"success on the other family {to[LLAMA]} from the Llama and {to[GPT2]} from the GPT-2, "
        f"on the attacked reward {own[LLAMA]} and {own[GPT2]}",
        (
            f"On Llamas of another seed and of other pairs the Llama's attack succeeds {siblings} "
            f"and {others}; a random response succeeds {floor}.",
            f"Plain over-optimisation of the Llama succeeds {to[PLAIN]} on the GPT-2.",
            "The witness is of the attacked family and of the same pairs, so an attack is made to "
            "displease its kin; both backbones are small and read one corpus.",
        ),
    )


def short_of_half(rows: Sequence[Row], setting: str) -> Interval:
    """Return by how much success on the other family is below half of that on the reward itself."""
    own = values_of(rows, setting, "itself")
    other = values_of(rows, setting, "other_family")
    return mean_of([one / 2 - two for one, two in zip(own, other, strict=True)])


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw each attack's success on each reward, with intervals over seeds."""
    for number, setting in enumerate((LLAMA, GPT2, PLAIN)):
        intervals = [mean_of(values_of(rows, setting, name)) for name in TRIED]
        heights = [interval.value for interval in intervals]
        errors = [interval.value - interval.low for interval in intervals]
        places = [place + 0.27 * (number - 1) for place in range(len(TRIED))]
        axes.bar(places, heights, 0.25, yerr=errors, capsize=2, label=setting)
    floor = mean_of(values_of(rows, LLAMA, "floor")).value
    axes.axhline(floor, color="grey", linestyle="--", linewidth=0.8, label="a random response")
    axes.set_xticks(range(len(TRIED)), list(TRIED.values()))
    axes.set_xlabel("reward that the attack is tried on")
    axes.set_ylabel("standard success, share;\nwhiskers: 95 % interval over seeds")
    axes.set_ylim(0, 1.35)
    axes.legend(ncols=2, fontsize=8)


CLAIM = Claim(
    name="A11",
    title="Attacks transfer little to rewards of another family",
    source="Adv-RM, arXiv 2504.06141, figure 3",
    how=(
        f"Adversaries are trained by RLOO for {attacks.STEPS} steps on R1 - R2 with the gate: on "
        "two Llama members, and on two GPT-2 members of the same 1,000 pairs, which the Llama "
        "policy wrote; plain RLHF on R1 of the Llamas alone. What they find is tried on the "
        "attacked reward, on a third member of the same pairs, on one of other pairs, and on one "
        "of the other family and the same pairs. Success is the paper's standard rate. The claim "
        "holds if for both adversaries success on the other family is below half of that on the "
        "attacked reward, by the 95 % interval over seeds of the difference, and fails if for one "
        "it is above half. The Llama's attacks are A2's, so the minutes below are without them."
    ),
    settings=(LLAMA, GPT2, PLAIN),
    measure=measure,
    judge=judge,
    draw=draw,
)
