"""Rewards of text by a rule: small ones to test with, to combine, and to see hacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.base import Reward
from rewardlab.types import Samples


class Length(Reward):
    """The number of words, which are what blanks separate.

    Example:
        >>> Length()(Samples(["hi", "hi"], ["hello to you", ""])).tolist()
        [3.0, 0.0]
    """

    def forward(self, samples: Samples) -> Tensor:
        return _column([len(text.split()) for text in texts_of(samples, "Length")], samples)


class Repetition(Reward):
    """Minus the share of a text's word n-grams that stood in it before: 0 if none repeats, near -1
    if almost all do.

    Args:
        n: words in a row that count as one.

    Example:
        >>> Repetition()(Samples(["", ""], ["of of of of of", "the sea"])).tolist()
        [-0.75, 0.0]
    """

    def __init__(self, n: int = 2) -> None:
        super().__init__()
        if n < 1:
            raise InputError(f"Repetition counts runs of n >= 1 words; got n={n}.")
        self.n = n

    def forward(self, samples: Samples) -> Tensor:
        return _column(
            [self._repetition(text.split()) for text in texts_of(samples, "Repetition")], samples
        )

    def _repetition(self, words: list[str]) -> float:
        runs = [tuple(words[start : start + self.n]) for start in range(len(words) - self.n + 1)]
        return (len(set(runs)) - len(runs)) / len(runs) if runs else 0.0


def texts_of(samples: Samples, scorer: str) -> Sequence[str]:
    """Return the samples' texts.

    Raises:
        InputError: if they are images or videos.
    """
    if not isinstance(samples.outputs, Tensor):
        return samples.outputs
    raise InputError(
        f"{scorer} scores texts, a list of B strings; got images {list(samples.outputs.shape)}. Is the policy an image model?"
    )


def _column(values: list[float], samples: Samples) -> Tensor:
    """Return the values as a float32 column [B], on the device where the samples' facts are."""
    device = next((column.device for column in samples.facts.values()), None)
    return torch.tensor(values, dtype=torch.float32, device=device)
