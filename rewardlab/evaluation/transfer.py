"""Transfer of attacks: how those made on one reward succeed on others."""

from __future__ import annotations

from collections.abc import Mapping

from rewardlab.evaluation.attack_success import AttackSuccess, attack_success, paired
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import judged
from rewardlab.types import Samples


def transfer(
    attacks: Mapping[str, Samples], rewards: Mapping[str, Reward], gold: Reward, references: Samples
) -> dict[str, dict[str, AttackSuccess]]:
    """Measure each attack on each reward.

    result[a][b] is the success on reward b of the attack that was made on a.

    Args:
        attacks: responses, by the name of the reward that they were made for.
        rewards: rewards that the attacks are tried on, by name.
        gold: the judge.
        references: reference responses to all prompts, at least two a prompt.

    Example:
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> references = Samples(["x"] * 3, ["a b", "a b c", "a b c d"])
        >>> attacks = {"length": Samples(["x"], ["a a a a a"])}
        >>> matrix = transfer(attacks, {"length": Length()}, Repetition(), references)
        >>> matrix["length"]["length"].attack.standard.value
        1.0
    """
    gold_of_attack = {name: judged(gold, samples) for name, samples in attacks.items()}
    gold_of_references = judged(gold, references)
    matrix: dict[str, dict[str, AttackSuccess]] = {name: {} for name in attacks}
    for reward_name, reward in rewards.items():
        reference_scores = paired(references, judged(reward, references), gold_of_references)
        for name, samples in attacks.items():
            attack_scores = paired(samples, judged(reward, samples), gold_of_attack[name])
            matrix[name][reward_name] = attack_success(attack_scores, reference_scores)
    return matrix
