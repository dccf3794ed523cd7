"""How attacks that were made on one reward fare on others."""

from __future__ import annotations

from collections.abc import Mapping

from rewardlab.evaluation.attack_success import AttackSuccess, Scored, attack_success
from rewardlab.mining import score
from rewardlab.rewards import Reward
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
    truth = {name: score(gold, samples).mean(1) for name, samples in attacks.items()}
    base = score(gold, references).mean(1)
    matrix: dict[str, dict[str, AttackSuccess]] = {name: {} for name in attacks}
    for judged, reward in rewards.items():
        known = Scored(list(references.prompts), score(reward, references).mean(1), base)
        for name, samples in attacks.items():
            tried = Scored(list(samples.prompts), score(reward, samples).mean(1), truth[name])
            matrix[name][judged] = attack_success(tried, known)
    return matrix
