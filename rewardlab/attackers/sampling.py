"""Attackers that sample and choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewardlab.attackers.base import check_counts, highest, scored_only, with_scores
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Generator
from rewardlab.policies.abilities import Tempered
from rewardlab.rewards import Reward
from rewardlab.types import Samples


@dataclass(frozen=True)
class BestOfN:
    """Draw n samples of each prompt, and keep the best by the attack reward.

    Nothing is trained. The result is at most ln n - (n - 1)/n nats from the policy.

    Args:
        n: samples drawn of each prompt.
        keep: samples returned of each prompt, the best first; all if None.

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
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        samples = candidates(policy, prompts, self.n, seed)
        return scored_only(highest(with_scores(reward, samples), self.n, self.keep))


@dataclass(frozen=True)
class HighTemperature:
    """Draw n samples of each prompt at another temperature, and keep the best.

    This goes further out than `BestOfN`. It is for policies with the ability `Tempered`, such as
    CausalLMPolicy.

    Args:
        temperature: temperature of the samples; above the policy's own, it leaves what the policy
            is likely to say.
        n: samples drawn of each prompt.
        keep: samples returned of each prompt, the best first; all if None.
    """

    temperature: float = 1.5
    n: int = 16
    keep: int | None = 1

    def __post_init__(self) -> None:
        check_counts("HighTemperature", self.n, self.keep)

    def __call__(
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        tempered = with_temperature(policy, self.temperature)
        return BestOfN(self.n, self.keep)(tempered, reward, prompts, seed)


def with_temperature(policy: Generator, temperature: float) -> Generator:
    """Return the policy at another temperature.

    It shares all weights with the given policy, which keeps its own temperature.

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
            "HighTemperature samples at another temperature, and a "
            f"{type(policy).__name__} has none. Take BestOfN for it."
        )
    if not temperature > 0:
        raise InputError(f"A temperature is above 0; got {temperature:g}.")
    return policy.with_temperature(temperature)
