"""One row of what is scored in bulk, and how rows are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.storage.videos import Clip
from rewardlab.types import Samples, concatenate

Output = str | Callable[[], Tensor]


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Attributes:
        prompts: file with the prompt of each row, in their order, instead of the rows' own.
        prompt_column: column, or name of a shard's member, that holds the prompt.
        output_column: column, or name of a shard's member, that holds the output.
        size: height and width to which pictures and frames are resized and cropped.
        clip: which frames are taken of videos.
        skip_unreadable: leave a row that cannot be read unscored, with the reason, instead of
            refusing all.
    """

    prompts: str | Path | None = None
    prompt_column: str | None = None
    output_column: str | None = None
    size: int | None = None
    clip: Clip | None = None
    skip_unreadable: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """The names of shards' members that were given."""
        return tuple(name for name in (self.prompt_column, self.output_column) if name)


@dataclass(frozen=True)
class Entry:
    """A row to be scored.

    Attributes:
        place: where it is, for messages.
        prompt: a text or a conversation, "" where there is none.
        output: a text, or a function that returns the pixels [C, H, W] or [F, C, H, W] in [0, 1].
        origin: columns that say where the row comes from.
        columns: the row's own columns, or prompt and output where the input has no columns.
        facts: columns [1] of the sample, such as "finished".
        problem: why the row cannot be read; "" where it can.
    """

    place: str
    prompt: Prompt = ""
    output: Output = ""
    origin: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    problem: str = ""

    @property
    def letters(self) -> int:
        """How long the texts are; 0 for pictures."""
        if not isinstance(self.output, str):
            return 0
        return len(self.output) + len(
            self.prompt if isinstance(self.prompt, str) else repr(self.prompt)
        )


class Numbered(NamedTuple):
    """A row with its number in the source, from 0."""

    row: int
    entry: Entry


def samples_of(entries: Sequence[Entry], rows: Sequence[int]) -> Samples:
    """Return entries as samples, with their row numbers.

    Raises:
        InputError: if texts and pictures, or pictures of several sizes, are mixed.

    Example:
        >>> samples_of([Entry("line 1", "2+2?", "4")], [7]).facts["row"].tolist()
        [7]
    """
    prompts = [entry.prompt for entry in entries]
    facts = concatenate([entry.facts for entry in entries])
    facts["row"] = torch.tensor(rows)
    texts = [entry.output for entry in entries if isinstance(entry.output, str)]
    if len(texts) == len(entries):
        return Samples(prompts, texts, facts)
    if texts:
        raise InputError(
            f"{entries[0].place} and {entries[-1].place} are texts and pictures, and one reward "
            "scores either. Give them apart."
        )
    return Samples(prompts, _stacked(entries), facts)


def _stacked(entries: Sequence[Entry]) -> Tensor:
    """Return the pixels of pictures or videos of one size, [B, ...]."""
    pixels = []
    for entry in entries:
        assert not isinstance(entry.output, str)
        pixels.append(entry.output())
        if pixels[-1].shape != pixels[0].shape:
            raise InputError(
                f"Pictures have several sizes ({entries[0].place} is {_size(pixels[0])}, "
                f"{entry.place} {_size(pixels[-1])}). Give a size (--size N), to which all are "
                "resized and cropped; videos need --frames N too."
            )
    return torch.stack(pixels)


def _size(pixels: Tensor) -> str:
    frames = f"{len(pixels)} frames of " if pixels.dim() == 4 else ""
    return f"{frames}{pixels.shape[-1]}×{pixels.shape[-2]}"
