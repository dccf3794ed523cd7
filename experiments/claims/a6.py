"""A6: after two rounds of mining and refitting a fresh attack does not succeed any more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from claims import attacks, text_world
from claims.claim import Claim, Figures, Row, Verdict, Word, Work
from claims.curves import draw_means, means_of
from claims.intervals import Interval, gain, mean_of, values_of
from claims.text_world import Scene
from rewardlab.embedded import topics
from rewardlab.mining import Funnel, adversarial_pairs
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive
from rewardlab.types import PreferencePairs, Samples, concatenate

ROUNDS = {"no round": 0, "1 round": 1, "2 rounds": 2, "3 rounds": 3}
START, TWO = "no round", "2 rounds"
MARGIN = 0.1  # a success above its floor that is called none
CAP = 100


class Hardened(NamedTuple):
    """What a number of rounds made.

    Attributes:
        scene: with the members that were refitted.
        pairs: adversarial pairs of all rounds; None before the first.
        precision: share of the last round's pairs that gold orders alike; None if there are none.
    """

    scene: Scene
    pairs: PreferencePairs | None
    precision: float | None


def measure(setting: str, seed: int, work: Work) -> Figures:
    """Attack the reward of a number of rounds with a fresh adversary."""
    rounds = ROUNDS[setting]
    state = hardened(work, seed, rounds)
    found = attack(work, seed, rounds)
    rates = attacks.figures(state.scene, found)
    return {
        **rates,
        "above_floor": (rates["success"] or 0.0) - (rates["best_of_n"] or 0.0),
        "yield": mined(state.scene, found)[1].counts["disagreeing"] / len(found),
        "pairs": len(state.pairs) if state.pairs else 0,
        "precision": state.precision,
        "clean_accuracy": clean_accuracy(work, state.scene),
    }


@lru_cache(maxsize=4)
def hardened(work: Work, seed: int, rounds: int) -> Hardened:
    """Return the members after a number of rounds, each of an attack, mining and a refit."""
    if rounds == 0:
        return Hardened(attacks.scene_of(work, seed), None, None)
    before = hardened(work, seed, rounds - 1)
    new, funnel = mined(before.scene, attack(work, seed, rounds - 1))
    pairs = new if before.pairs is None else concatenate([before.pairs, new])
    if not len(pairs):
        return before
    target, witness = [text_world.member(work, seed, number, extra=pairs) for number in (0, 1)]
    scene = before.scene._replace(target=target, witness=witness)
    return Hardened(scene, pairs, (funnel.precision or {})["kept"])


def attack(work: Work, seed: int, rounds: int) -> Samples:
    """Return what a fresh adversary finds on the reward of a number of rounds."""
    if rounds == 0:
        return attacks.adversary(work, seed)

    def make() -> Samples:
        scene = hardened(work, seed, rounds).scene
        of_round = derive(seed, "attack", rounds)
        reward = text_world.attack_on(scene)
        return text_world.adversary(scene, reward, of_round, steps=attacks.steps_of(work))

    return attacks.kept(work, f"adversary-1-after-{rounds}", seed, make)


def mined(scene: Scene, found: Samples) -> tuple[PreferencePairs, Funnel]:
    """Return the adversarial pairs of an attack; gold is asked for their precision alone."""
    sides = (found, scene.references)
    scores = [
        [scores_of(reward, samples) for reward in (scene.target, scene.witness)]
        for samples in sides
    ]
    gold = [scores_of(text_world.gold(), samples) for samples in sides]
    return adversarial_pairs(
        found,
        *scores[0],
        scene.references,
        *scores[1],
        chosen="best",
        cap=CAP,
        judge_scores=(gold[0], gold[1]),
    )


def clean_accuracy(work: Work, scene: Scene) -> float:
    """Return how often the target orders pairs as gold does, on pairs that nobody learns from."""
    train_steps = text_world.train_steps_of(work)
    pairs = topics.preferences(20 if work.small else 500, seed=99_991, train_steps=train_steps)
    margin = scores_of(scene.target, pairs.chosen) - scores_of(scene.target, pairs.rejected)
    return (margin > 0).float().mean().item()


def judge(rows: Sequence[Row]) -> Verdict:
    """The claim holds if after two rounds success is at most a margin above its floor."""
    names = attacks.present(rows, ROUNDS)
    above_floor = {name: mean_of(values_of(rows, name, "above_floor")) for name in names}
    success = {name: mean_of(values_of(rows, name, "success")) for name in names}
    strict = {name: mean_of(values_of(rows, name, "strict_success")) for name in names}
    course = ", ".join(f"{success[name]} after {name}" for name in names)
    accuracy = gain(rows, TWO, START, "clean_accuracy")
    return Verdict(
        word_of(above_floor[START], above_floor[TWO]),
        f"after two rounds success is {above_floor[TWO]} above the best of n references, from "
        f"{above_floor[START]}",
        (
            f"A fresh attack's success is {course}.",
            f"Strict success goes from {strict[START]} to {strict[TWO]} after two rounds, and "
            f"accuracy on clean pairs changes by {accuracy}.",
            f"A round adds at most {CAP} pairs to 1,000, and the last adversary's responses alone "
            "are mined, not all that it said while it trained.",
        ),
    )


def word_of(start: Interval, after: Interval) -> Word:
    """Return "holds" if the attack succeeded at first and does not any more."""
    if after.low > MARGIN:
        return "fails"
    return "holds" if start.low > MARGIN > after.high else "undecided"


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Draw the rates of a fresh attack over rounds, a thin line a seed."""
    names = attacks.present(rows, ROUNDS)
    labels = {"success": "standard success", "strict_success": "strict success"}
    for number, (figure, label) in enumerate(labels.items()):
        columns = [values_of(rows, name, figure) for name in names]
        for line in zip(*columns, strict=True):
            axes.plot(range(len(line)), line, color=f"C{number}", alpha=0.25, linewidth=0.8)
        places = [place + 0.03 * number for place in range(len(names))]
        means = means_of(rows, names, figure)
        draw_means(axes, places, means, color=f"C{number}", label=label)
    floors = [mean_of(values_of(rows, name, "best_of_n")).value for name in names]
    axes.plot(range(len(floors)), floors, "--", color="grey", label="floor: best of n references")
    axes.set_xticks(range(len(names)))
    axes.set_ylim(-0.05, 1.1)
    axes.set_xlabel("rounds of mining and refitting before the attack")
    axes.set_ylabel("share; whiskers: 95 % interval over seeds")
    axes.legend()


CLAIM = Claim(
    name="A6",
    title="Two rounds suffice",
    source="Adv-RM, arXiv 2504.06141, section 3.4",
    how=(
        f"In each round an adversary is trained by RLOO for {attacks.STEPS} steps on R1 - R2 with "
        "the gate; of its 256 fresh responses those that pass the gate and disagree by more than "
        f"1.96 deviations become rejected examples, at most {CAP}, the best reference by R1 the "
        "chosen one; both members are fitted anew on the 1,000 clean pairs and all adversarial "
        "ones so far. Measured is each time a fresh adversary, which is also what the next round "
        "mines. Its floor is the best of n references that pass the gate as often. The claim holds "
        f"if the 95 % interval over seeds of standard success above the floor lies below {MARGIN:g}"
        f" after two rounds and above it before the first; it fails if it lies above {MARGIN:g} "
        "after two. The first attack is A2's, so the minutes below are without it."
    ),
    settings=tuple(ROUNDS),
    measure=measure,
    judge=judge,
    draw=draw,
    small_settings=("no round", "1 round", "2 rounds"),
)
