"""Attackers that sample and choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewardlab.attackers.base import check_counts, highest, with_scores
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.policies.abilities import Tempered
from rewardlab.rewards import Reward
from rewardlab.types import Samples


@dataclass(frozen=True)
class BestOfN:
    """The best of n samples of each prompt by the attack reward: no training, at most ln n - (n -
    1)/n nats from the policy.

    Args:
        n: samples drawn of each prompt.
        keep: how many of them are returned, the best first; all if None.

    Example:
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.policies.samplers import Sampler
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
        >>> samples = BestOfN(n=4, keep=2)(policy, Brightness(), ["", ""], 0)
        >>> len(samples), bool(samples.facts["attack"][0] >= samples.facts["attack"][1])
        (4, True)
    """

    n: int = 16
    keep: int | None = 1

    def __post_init__(self) -> None:
        check_counts("BestOfN", self.n, self.keep)

    def __call__(
        self, policy: Policy, reward: Reward, prompts: Sequence[str], seed: int
    ) -> Samples:
        return highest(
            with_scores(reward, candidates(policy, prompts, self.n, seed)), self.n, self.keep
        )


@dataclass(frozen=True)
class HighTemperature:
    """The best of n samples of each prompt at another temperature, by the attack reward: further
    out than `BestOfN`.

    It is for policies with an attribute `temperature`, such as CausalLMPolicy.

    Args:
        temperature: above the policy's own, to leave what it is likely to say.
        n: samples drawn of each prompt.
        keep: how many of them are returned, the best first; all if None.
    """

    temperature: float = 1.5
    n: int = 16
    keep: int | None = 1

    def __post_init__(self) -> None:
        check_counts("HighTemperature", self.n, self.keep)

    def __call__(
        self, policy: Policy, reward: Reward, prompts: Sequence[str], seed: int
    ) -> Samples:
        return BestOfN(self.n, self.keep)(
            with_temperature(policy, self.temperature), reward, prompts, seed
        )


def with_temperature(policy: Policy, temperature: float) -> Policy:
    """Return the policy at another temperature. It shares all weights with the one given, which
    keeps its own.

    Raises:
        InputError: if the policy has no temperature.

    Example:
        >>> from rewardlab.policies.causal_lm import CausalLMPolicy
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
        >>> with_temperature(policy, 2.0).temperature, policy.temperature
        (2.0, 1.0)
    """
    if not isinstance(policy, Tempered):
        raise InputError(
            f"HighTemperature samples at another temperature, and a {type(policy).__name__} has none. Take BestOfN for it."
        )
    if not temperature > 0:
        raise InputError(f"A temperature is above 0; got {temperature:g}.")
    return policy.with_temperature(temperature)
