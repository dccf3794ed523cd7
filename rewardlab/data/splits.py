"""Rows that are trained on, rows that are held out, and data modules that tell them apart."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl

from rewardlab.conversations import Prompt
from rewardlab.seeds import derive, row_seeds

Part = Literal["train", "held_out"]


class SplitData(pl.LightningDataModule, ABC):
    """A data module whose rows are in two parts, one to train on and one held out.

    A loop that needs the parts as a whole, beside their batches, asks for this class.

    Attributes:
        batch_size: rows a step, on each device.
    """

    batch_size: int

    @abstractmethod
    def split(self, part: Part) -> Any:
        """Return the noun of all rows of a part, "train" or "held_out"."""


class Split(NamedTuple):
    """Row numbers to train on, and row numbers to hold out, both in rising order."""

    train: list[int]
    held_out: list[int]


def held_out_count(held_out: float, count: int) -> int:
    """Return how many of `count` rows to hold out, from a number, or from a share below 1.

    Example:
        >>> held_out_count(0.25, 10), held_out_count(3, 10)
        (2, 3)
    """
    return round(held_out * count) if held_out < 1 else int(held_out)


def prompt_key(prompt: Prompt) -> str:
    r"""Return what is equal for prompts that ask the same but for spaces and case.

    Unicode's compatible forms, such as full-width letters and ligatures, are equal too (NFKC).

    Example:
        >>> prompt_key("What is\n2+2? ") == prompt_key("what is 2+2?")
        True
    """
    text = unicodedata.normalize("NFKC", str(prompt))
    return " ".join(text.split()).casefold()


def split_groups(groups: Sequence[int], held: int, seed: int) -> Split:
    """Return the rows to train on and to hold out, where each group is in one part as a whole.

    Args:
        groups: B numbers from 0 up, the group of each row; `range(B)` splits single rows.
        held: how many rows are held out, or a few more where a group would be cut.
        seed: chooses the groups that are held out.

    Example:
        >>> split_groups([0, 0, 1, 1, 2], held=1, seed=0)
        Split(train=[0, 1, 4], held_out=[2, 3])
    """
    seeds = row_seeds(derive(seed, "held out"), max(groups) + 1)
    order = seeds[list(groups)].argsort(stable=True).tolist()
    while 0 < held < len(order) and groups[order[held]] == groups[order[held - 1]]:
        held += 1
    return Split(sorted(order[held:]), sorted(order[:held]))
