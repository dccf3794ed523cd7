"""Gaussians over latents: one for all prompts, one a prompt, or a small network's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import log, pi

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError

_BUCKETS = 4096  # of the hashed trigrams
_LOG_2_PI = log(2 * pi)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Diagonal Gaussians of B rows.

    Attributes:
        mean: float32 [B, D].
        log_std: float32 [B, D].
    """

    mean: Tensor
    log_std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return the points [B, D] that standard normal noise [B, D] stands for."""
        return self.mean + self.log_std.exp() * noise

    def noise_of(self, points: Tensor) -> Tensor:
        """Return the noise [B, D] of points [B, D]: the inverse of `at`."""
        return (points - self.mean) * (-self.log_std).exp()

    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log-density of points [B, D] in nats, [B]."""
        squares = self.noise_of(points).square()
        return -(0.5 * squares + self.log_std + 0.5 * _LOG_2_PI).sum(1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [B]."""
        return (self.log_std + 0.5 * (1 + _LOG_2_PI)).sum(1)

    def kl(self, other: Gaussian) -> Tensor:
        """Return the KL divergence from `other` in nats, [B].

        It is Σ(log(s₂/s₁) + (s₁² + (m₁ - m₂)²)/(2·s₂²) - 1/2).

        Example:
            >>> one = Gaussian(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
            >>> other = Gaussian(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
            >>> one.kl(other).tolist()
            [0.5]
        """
        ratio = self.log_std - other.log_std
        shift = (self.mean - other.mean) * (-other.log_std).exp()
        squares = (2 * ratio).exp() + shift.square()
        return (0.5 * squares - ratio - 0.5).sum(1)


class SharedGaussian(nn.Module):
    """One Gaussian for every prompt; it starts as the standard normal.

    Args:
        size: number D of a latent's components.
        rows: number of Gaussians.
    """

    def __init__(self, size: int, rows: int = 1) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(rows, size))
        self.log_std = nn.Parameter(torch.zeros(rows, size))

    def forward(self, prompts: Sequence[str]) -> Gaussian:
        places = torch.tensor(self.places(prompts), dtype=torch.long, device=self.mean.device)
        return Gaussian(self.mean[places], self.log_std[places])

    def places(self, prompts: Sequence[str]) -> list[int]:
        """Return the number of each prompt's Gaussian."""
        return [0] * len(prompts)

    def check(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that have no Gaussian."""
        self.places(prompts)


class TabledGaussian(SharedGaussian):
    """One Gaussian for each of some prompts.

    Args:
        size: number D of a latent's components.
        prompts: the prompts; others are refused.
    """

    def __init__(self, size: int, prompts: Sequence[str]) -> None:
        super().__init__(size, len(prompts))
        self.numbers = {prompt: number for number, prompt in enumerate(prompts)}
        if len(self.numbers) != len(prompts) or not prompts:
            raise InputError(
                f"The table of prompts needs distinct prompts, at least one; got {len(prompts)}, "
                f"{len(self.numbers)} of them distinct."
            )

    def places(self, prompts: Sequence[str]) -> list[int]:
        """Return the number of each prompt's Gaussian.

        Raises:
            InputError: if a prompt is not in the table.
        """
        unknown = [prompt for prompt in prompts if prompt not in self.numbers]
        if unknown:
            raise InputError(
                f"LatentPolicy has a Gaussian for each of {len(self.numbers)} prompts; "
                f"{unknown[0][:60]!r} is none of them. Add it to `prompts`, or give "
                "network_width for prompts of any text."
            )
        return [self.numbers[prompt] for prompt in prompts]


class TextGaussian(SharedGaussian):
    """A small network that gives the Gaussian of a prompt's text, relative to a shared one.

    The text's letter trigrams are hashed into a bag of features. The last layer starts at zero, so
    every prompt starts with the standard normal.

    Args:
        size: number D of a latent's components.
        width: of the network's two hidden layers.
        seed: of its first weights.
    """

    def __init__(self, size: int, width: int, seed: int = 0) -> None:
        super().__init__(size)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.features = nn.EmbeddingBag(_BUCKETS, width, mode="mean")
            self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, 2 * size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, prompts: Sequence[str]) -> Gaussian:
        device = self.mean.device
        buckets = [_trigram_buckets(prompt) for prompt in prompts]
        starts = [0]
        for row in buckets[:-1]:
            starts.append(starts[-1] + len(row))
        flat = torch.tensor(list(chain.from_iterable(buckets)), dtype=torch.long, device=device)
        offsets = torch.tensor(starts[: len(buckets)], dtype=torch.long, device=device)
        features = self.features(flat, offsets)
        shifts = self.head(torch.nn.functional.gelu(self.hidden(features)))
        mean_shift, log_std_shift = shifts.chunk(2, dim=1)
        return Gaussian(self.mean + mean_shift, self.log_std + log_std_shift)


def gaussian_of_prompts(
    size: int, prompts: Sequence[str] | None, width: int | None
) -> SharedGaussian:
    """Return the Gaussians of a table of prompts, of a network of some width, or one for all."""
    if prompts is not None:
        return TabledGaussian(size, prompts)
    if width is not None:
        return TextGaussian(size, width)
    return SharedGaussian(size)


def _trigram_buckets(prompt: str) -> list[int]:
    """Return the bucket of each letter trigram of a text, which is padded so that one is there."""
    padded = f"  {prompt}  "
    buckets = []
    for start in range(len(padded) - 2):
        trigram = padded[start : start + 3].encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(trigram, digest_size=4).digest()
        buckets.append(int.from_bytes(digest, "little") % _BUCKETS)
    return buckets
