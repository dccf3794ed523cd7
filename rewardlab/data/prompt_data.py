"""Prompts to sample from, such as PPO's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.data.loader import ResumableLoader, Rows
from rewardlab.data.long_rows import fitting, models_of
from rewardlab.data.token_budget import check_batch
from rewardlab.errors import InputError
from rewardlab.storage.prompts import read_prompts
from rewardlab.types import Index, take


@dataclass(frozen=True)
class NumberedPrompts:
    """Prompts, each with the number from which its noise is seeded.

    Attributes:
        prompts: P texts or conversations.
        rows: int64 [P], the same in every epoch, batch and process; on the CPU, where seeds are
            made.

    Example:
        >>> NumberedPrompts(["a cat", "a dog"], torch.arange(2))[[1]].prompts
        ['a dog']
    """

    prompts: Sequence[Prompt]
    rows: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Index) -> NumberedPrompts:
        return NumberedPrompts(take(self.prompts, index), take(self.rows, index))

    def to(self, device: torch.device | str, **kwargs: Any) -> NumberedPrompts:
        """Return itself, since row numbers stay on the CPU."""
        return self


def numbered(prompts: Sequence[Prompt]) -> NumberedPrompts:
    """Return prompts with their places as row numbers.

    Example:
        >>> numbered(["a cat", "a dog"]).rows.tolist()
        [0, 1]
    """
    return NumberedPrompts(list(prompts), torch.arange(len(prompts)))


class Prompts(pl.LightningDataModule):
    """Prompts to train on; batches are `NumberedPrompts`.

    Args:
        prompts: a file (see `read_prompts`); or the prompts, texts or conversations. A generator
            that takes none gets empty strings, as many as samples of different noise are wanted in
            an epoch.
        batch_size: prompts a step, on each device. A loop that draws K samples a prompt has K times
            as many rows.
        seed: names the order.
        strict: refuse blank lines in the file, instead of skipping them.
        long_rows: what becomes of prompts that do not fit the policy's context: "refuse" or "drop".

    Raises:
        InputError: if the file is missing or broken, there are no prompts, or a batch has none.

    Example:
        >>> data = Prompts(["a cat", "a dog", "a bird"], batch_size=2)
        >>> data.setup("fit")
        >>> [len(batch) for batch in data.train_dataloader()]
        [2, 1]
    """

    def __init__(
        self,
        prompts: str | Path | list[Prompt],
        batch_size: int = 16,
        seed: int = 0,
        strict: bool = False,
        long_rows: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        super().__init__()
        check_batch(batch_size)
        self.prompts = prompts
        self.batch_size = batch_size
        self.seed = seed
        self.strict = strict
        self.long_rows = long_rows
        self.dataset: Rows | None = None

    def setup(self, stage: str) -> None:
        """Read the file, once; look for prompts that do not fit the trainer's policy."""
        if self.dataset is None:
            self.dataset = Rows(self._read())
        noun = fitting(self.dataset.noun, models_of(self.trainer), self.long_rows, "prompts")
        self.dataset = Rows(noun)

    def _read(self) -> NumberedPrompts:
        prompts = self.prompts
        if not isinstance(prompts, list):
            prompts = read_prompts(prompts, self.strict)
        if not prompts:
            raise InputError(
                "Prompts got an empty list. "
                'A generator that takes no prompt needs [""], once a row.'
            )
        return numbered(prompts)

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.dataset, self.batch_size, seed=self.seed)
