"""Rewards of text by a rule: small ones to test with, to combine, and to see hacked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import read_config, read_settings, write_reward
from rewardlab.types import Samples, texts_of


class Length(Reward, Saved):
    """The number of words, which are what blanks separate.

    Example:
        >>> Length()(Samples(["hi", "hi"], ["hello to you", ""])).tolist()
        [3.0, 0.0]
    """

    def check_samples(self, samples: Samples) -> None:
        """Refuse outputs that are no texts."""
        texts_of(samples, "Length")

    def forward(self, samples: Samples) -> Tensor:
        """Return the number of words of each text, float32 [B]."""
        texts = texts_of(samples, "Length")
        return _column([len(text.split()) for text in texts], samples)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the class's name; there is nothing else to save."""
        write_reward(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Length:
        """Load what `save_pretrained` wrote, in eval mode."""
        read_config(folder)
        return cls().eval()


class Repetition(Reward, Saved):
    """Minus the share of a text's word n-grams that stood in it before.

    It is 0 if none repeats, and near -1 if almost all do.

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

    def check_samples(self, samples: Samples) -> None:
        """Refuse outputs that are no texts."""
        texts_of(samples, "Repetition")

    def forward(self, samples: Samples) -> Tensor:
        """Return minus the share of repeated n-grams of each text, float32 [B]."""
        texts = texts_of(samples, "Repetition")
        return _column([self._repetition(text) for text in texts], samples)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `n`."""
        write_reward(folder, self, {"n": self.n})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Repetition:
        """Load what `save_pretrained` wrote, in eval mode."""
        return cls(**read_settings(folder, "n")).eval()

    def _repetition(self, text: str) -> float:
        words = text.split()
        starts = range(len(words) - self.n + 1)
        n_grams = [tuple(words[start : start + self.n]) for start in starts]
        if not n_grams:
            return 0.0
        return (len(set(n_grams)) - len(n_grams)) / len(n_grams)


def _column(values: Sequence[float], samples: Samples) -> Tensor:
    """Return the values as a float32 column [B], on the device where the samples' facts are."""
    device = next((column.device for column in samples.facts.values()), None)
    return torch.tensor(values, dtype=torch.float32, device=device)
