"""Abilities: what a policy can do beside its four verbs. Loops and tools ask with `isinstance`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from rewardlab.networks.text_format import FormatsTexts
from rewardlab.types import Samples, Trajectory

if TYPE_CHECKING:
    from rewardlab.policies.base import Generator


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
    Tempered,
    PredictsX0,
    Denoises,
    KeepsNoise,
    Adapted,
    HasAutoencoder,
)
EARLIER = {"foresee": "predict_x0"}
