"""How attacks that were made on one reward fare on others."""

from __future__ import annotations

from collections.abc import Mapping

from rewardlab.evaluation.attack_success import AttackSuccess, Scored, attack_success
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples


def transfer(
    attacks: Mapping[str, Samples], rewards: Mapping[str, Reward], gold: Reward, references: Samples
) -> dict[str, dict[str, AttackSuccess]]:
    """Measure each attack on each reward: result[a][b] is the success on reward b of the attack
    that was made on a.

    Args:
        attacks: the responses by the name of the reward that they were made for.
        rewards: those that are tried, by name.
        gold: the judge.
        references: reference responses to all prompts, at least two a prompt.

    Example:
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> references = Samples(["x"] * 3, ["a b", "a b c", "a b c d"])
        >>> found = transfer({"length": Samples(["x"], ["a a a a a"])}, {"length": Length()}, Repetition(), references)
        >>> found["length"]["length"].attack.standard.value
        1.0
    """
    truth = {name: scores_of(gold, samples) for name, samples in attacks.items()}
    base = scores_of(gold, references)
    matrix: dict[str, dict[str, AttackSuccess]] = {name: {} for name in attacks}
    for judged, reward in rewards.items():
        known = Scored(list(references.prompts), scores_of(reward, references), base)
        for name, samples in attacks.items():
            tried = Scored(list(samples.prompts), scores_of(reward, samples), truth[name])
            matrix[name][judged] = attack_success(tried, known)
    return matrix
