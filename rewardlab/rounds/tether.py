"""The hardened reward: what is made of the members, and the tether that keeps it near the known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.rewards import Reward
from rewardlab.rewards.combine import Ensemble, Standardized, Weighted
from rewardlab.rewards.novelty import Novelty
from rewardlab.rewards.relative import spread_within
from rewardlab.rewards.scoring import device_of_reward, judged, scored_part
from rewardlab.types import Samples


@dataclass
class Tether:
    """A distance from the first policy's responses that is subtracted from the hardened reward.

    What no member has seen cannot be overrated for free then (`Novelty`).

    Args:
        novelty: a reward with features: a frozen backbone, say.
        weight: standard deviations of the reward that one standard deviation of the distance costs.
        reward_weight: weight of the reward; 0 shows what the distance does alone.
    """

    novelty: Reward
    weight: float = 1.0
    reward_weight: float = 1.0


def reward_in_use(
    use: str | Callable[[Reward, Samples], Reward],
    members: Sequence[Reward],
    references: Samples | None,
) -> Reward:
    """Return the target, the members' ensemble, or what `use` makes of it and the references.

    Args:
        use: "target", "ensemble", or a function of the ensemble and the references.
        members: the target first.
        references: outputs of the first policy; a function needs them.
    """
    if use == "target":
        return members[0]
    ensemble = Ensemble(list(members))
    if isinstance(use, str):
        return ensemble
    assert references is not None  # the rounds draw them where `use` is a function
    device = device_of_reward(ensemble)
    return use(ensemble.eval(), references).eval().to(device)


def tethered(reward: Reward, tether: Tether, references: Samples) -> Reward:
    """Return the reward less the distance from the references.

    The reward is in its standard deviations within a prompt over the references, the distance in
    its own over held-out references.
    """
    scored = scored_part(references, judged(reward, references), "references")
    scaled = in_deviations(reward, scored.samples.prompts, scored.scores)
    device = device_of_reward(reward)  # where it was fitted
    novelty = Novelty(tether.novelty.eval().to(device), references)
    return Weighted([scaled, novelty], [tether.reward_weight, tether.weight]).eval().to(device)


def in_deviations(reward: Reward, prompts: Sequence[Prompt], scores: Tensor) -> Standardized:
    """Return a reward in its standard deviations within a prompt.

    Args:
        reward: what is rescaled.
        prompts: B prompts, some of them two times or more.
        scores: [B], the reward's scores of responses to them.
    """
    _, means, deviation = spread_within(prompts, scores[:, None])
    return Standardized(reward, means.mean().item(), deviation.item())
