"""Abilities: what a policy can do beside its four verbs. Loops and tools ask with `isinstance`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from rewardlab.networks.text_format import FormatsTexts
from rewardlab.types import Samples, Trajectory

if TYPE_CHECKING:
    from rewardlab.policies.base import Generator
    from rewardlab.policies.text import Tokens


class HasEntropy(ABC):
    """A policy that knows the entropy of each step's distribution."""

    @abstractmethod
    def entropy(self, trajectory: Trajectory) -> Tensor:
        """Return the entropy of each step's distribution in nats, float32 [B, T]."""


class HasCritic(ABC):
    """A policy with a critic, which estimates the return after each step."""

    @property
    def has_critic(self) -> bool:
        """Tell whether the critic is there: a leaf may be built without it."""
        return True

    @abstractmethod
    def value(self, trajectory: Trajectory) -> Tensor:
        """Return the critic's value before each step, float32 [B, T]."""


class Continues(ABC):
    """A generator that can continue a partial output, for guided attacks."""

    @abstractmethod
    def extend(self, samples: Samples, tokens: int, *, seeds: Tensor) -> Samples:
        """Return the samples with at most `tokens` further tokens each. Seeds are int64 [B]."""


class Tempered(ABC):
    """A generator with a temperature.

    Attributes:
        temperature: above 1 flatter, below 1 sharper than the model's own distribution.
    """

    temperature: float

    @abstractmethod
    def with_temperature(self, temperature: float) -> Generator:
        """Return the generator at another temperature, with the same weights."""


class LengthLimited(ABC):
    """A generator whose outputs have a largest number of tokens.

    Attributes:
        max_new_tokens: that number.
    """

    max_new_tokens: int


class DrawingTerms(NamedTuple):
    """The distribution that tokens are drawn from, and what ends a response.

    Attributes:
        temperature: divisor of the logits.
        top_k: number of likeliest tokens; 0 for all.
        top_p: share of the probability; 1 for all.
        ends: tokens that end a response.
        stop: texts that end a response.
    """

    temperature: float
    top_k: int
    top_p: float
    ends: Sequence[int]
    stop: Sequence[str]


class TextGenerator(ABC):
    """What draws responses' tokens in place of a policy's own decoding, such as a server's engine.

    Its draws have to be of the policy's distribution with the weights that it has now. Of what it
    knows beside the tokens nothing is used: the policy computes log-probabilities itself.
    """

    @abstractmethod
    def draw(
        self,
        policy: Any,
        prompts: Tokens,
        seeds: Tensor,
        limits: Sequence[int],
        terms: DrawingTerms,
    ) -> Tokens:
        """Return the tokens of a response to each prompt, with the token that ended it.

        What comes after a response's end is cut off by the policy.

        Args:
            policy: whose weights and tokenizer are to be used as they are now.
            prompts: tokens of B prompts.
            seeds: int64 [B].
            limits: largest number of tokens of each response.
            terms: the distribution, and what ends a response.
        """


class DrawsElsewhere(ABC):
    """A policy whose responses something else may draw.

    Attributes:
        text_generator: what draws; None for the policy's own decoding.
    """

    text_generator: TextGenerator | None = None

    @abstractmethod
    def draw_by(self, generator: TextGenerator | None) -> None:
        """Let `generator` draw from now on, or the policy itself for None."""


class PredictsX0(ABC):
    """A policy that predicts, at a step, the output that a trajectory ends in, with a gradient."""

    @abstractmethod
    def predict_x0(self, trajectory: Trajectory, steps: Tensor) -> Samples:
        """Return the outputs predicted at one step of each row; `steps` is int64 [B]."""


class Denoisings(NamedTuple):
    """What a denoiser says of some noisings of each sample, float32 [B, D, ...].

    Attributes:
        output: the network's output in its own units, without guidance.
        target: what a perfect network would say of the sample.
        velocity: the output as a velocity dx/dt, up to a positive factor of each noise level.
    """

    output: Tensor
    target: Tensor
    velocity: Tensor


class Denoises(ABC):
    """A policy that denoises, and can be trained without a likelihood."""

    @abstractmethod
    def denoisings(self, trajectory: Trajectory) -> Denoisings:
        """Return what the network says of the noisings of an encoded trajectory."""

    def recorded_norms(self) -> AbstractContextManager[list[Tensor]]:
        """Collect ‖v‖ of the velocities behind each `log_prob` in the `with` block.

        Each is float32 [B, D] for D noisings or steps of a row, with the gradient of `log_prob`.
        A policy that keeps no record leaves the list empty.
        """
        return nullcontext([])


class KeepsNoise(ABC):
    """A policy that can noise its own outputs with the noise that they were drawn from."""

    @abstractmethod
    def check_own_noise(self) -> None:
        """Refuse a policy whose outputs do not follow from their first noise alone.

        Raises:
            InputError: saying what stands against it.
        """

    @abstractmethod
    def encode_own(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Encode samples as `encode` does, but with their own noise, by the fact "seed"."""


class Adapted(ABC):
    """A policy whose trainable weights may all be in an adapter that can be switched off."""

    @abstractmethod
    def adapter_off(self) -> AbstractContextManager[None]:
        """Return a context in which the policy is what it was before its adapter."""


class HasAutoencoder(ABC):
    """A policy whose outputs pass an autoencoder, which leaves a signature on them."""

    @property
    @abstractmethod
    def has_autoencoder(self) -> bool:
        """Tell whether the autoencoder is there: a leaf may work on the outputs themselves."""


ABILITIES = (
    FormatsTexts,
    HasEntropy,
    HasCritic,
    Continues,
    DrawsElsewhere,
    Tempered,
    PredictsX0,
    Denoises,
    KeepsNoise,
    Adapted,
    HasAutoencoder,
)
EARLIER = {"foresee": "predict_x0"}
