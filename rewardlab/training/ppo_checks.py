"""Checks of PPO's arguments: what cannot work is refused before anything is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.policies.abilities import HasCritic, HasEntropy
from rewardlab.rewards import Reward
from rewardlab.rewards.combine import Weighted
from rewardlab.training.shaping import Shaping

if TYPE_CHECKING:
    from rewardlab.training.ppo import PPO


def check_advantage(loop: PPO) -> None:
    """Refuse what the loop's advantage cannot be taken of.

    That is a generalized one without a critic, a baseline over a single sample, and a decoupled one
    of one reward, or with a shaping of the sum, which nobody would read.

    Raises:
        InputError: see above.
    """
    if loop.advantage == "generalized":
        critic_of(loop.policy)
    elif loop.samples_per_prompt < 2:
        raise InputError(
            "A baseline compares the samples of one prompt; "
            f"got samples_per_prompt={loop.samples_per_prompt}. "
            'Take at least 2, or a critic: advantage="generalized".'
        )
    if loop.advantage == "decoupled":
        weighted_of(loop.reward)
        _check_unshaped(loop.shaping)


def critic_of(policy: Policy) -> HasCritic:
    """Return the policy as one with the critic that generalized advantages need.

    Raises:
        InputError: if its class has none, or it was made without one.
    """
    if not isinstance(policy, HasCritic):
        raise InputError(
            f'advantage="generalized" needs a policy with `value`; {type(policy).__name__} has '
            "none. Take leave_one_out, which needs no critic."
        )
    if not policy.has_critic:
        raise InputError(
            f'advantage="generalized" needs a critic, and this {type(policy).__name__} was made '
            "without one. Make it with value_head=True, or take leave_one_out, which needs none."
        )
    return policy


def weighted_of(reward: Reward) -> Weighted:
    """Return the reward as the sum of several that decoupled advantages need.

    Raises:
        InputError: if it is no `Weighted`.
    """
    if not isinstance(reward, Weighted):
        raise InputError(
            'advantage="decoupled" normalizes each of several rewards by itself and needs a '
            f"rewards.Weighted of them; {type(reward).__name__} is one reward. Add rewards up by "
            "Weighted, or take group_normalized."
        )
    return reward


def _check_unshaped(shaping: Shaping) -> None:
    """Refuse a shaping beside decoupled advantages.

    Raises:
        InputError: see above.
    """
    if shaping.needs_reference or shaping.whiten:
        raise InputError(
            'advantage="decoupled" normalizes each reward and whitens their sum, so a shaping of '
            f"the sum would have no effect; got {shaping}. Take the default shaping, or another "
            "advantage."
        )


def check_entropy(policy: Policy, entropy_weight: float) -> None:
    """Refuse an entropy bonus for a policy that does not know its entropy."""
    if entropy_weight and not isinstance(policy, HasEntropy):
        raise InputError(
            f"entropy_weight={entropy_weight:g} needs a policy with `entropy`; "
            f"{type(policy).__name__} has none. Set it to 0."
        )


def check_kl(policy: Policy, kl: str, kl_weight: float, kl_target: float | None) -> None:
    """Refuse the k3 estimate for means, and a target that the KL's weight cannot be steered to.

    Raises:
        InputError: if k3 is asked of a policy whose log-probabilities are means over dimensions, or
            a target or the weight to steer is not above 0.
    """
    if kl == "k3" and policy.mean_log_prob:
        raise InputError(
            f'kl="k3" exponentiates log-ratios in nats; those of {type(policy).__name__} are means '
            f'over {policy.dimensions} dimensions. Take "reward" or "k2".'
        )
    if kl_target is not None and not (kl_target > 0 and kl_weight > 0):
        raise InputError(
            "kl_target steers kl_weight by factors, so both have to be above 0; "
            f"got {kl_target:g} and {kl_weight:g}. Start from a small weight, such as 0.01."
        )
