"""What a claim is: points that are measured, a rule for the verdict, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Figures = Mapping[str, float | None]
Row = Mapping[str, Any]
Word = Literal["holds", "fails", "undecided"]


class Work(NamedTuple):
    """Where and how large a claim is measured.

    Attributes:
        folder: of what claims share: pools of samples, fitted members, run folders.
        small: the size at which `make test` runs it; its figures say nothing.
    """

    folder: Path
    small: bool


class Verdict(NamedTuple):
    """What was found.

    Attributes:
        word: whether the claim holds here.
        figure: the figure that decides, with its interval, in a phrase.
        sentences: three: what was found, what it means, what limits it.
    """

    word: Word
    figure: str
    sentences: tuple[str, str, str]


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes:
        name: such as "G2".
        title: the claim in a sentence.
        source: paper, section or table.
        how: how it is measured here, in a paragraph.
        settings: what is varied; each is measured with each seed.
        measure: the figures of one setting and seed.
        judge: the verdict on all rows.
        draw: a picture of all rows, on matplotlib's axes.
        seeds: of the full size.
        small_settings: of the small size; all by default.
    """

    name: str
    title: str
    source: str
    how: str
    settings: tuple[str, ...]
    measure: Callable[[str, int, Work], Figures]
    judge: Callable[[Sequence[Row]], Verdict]
    draw: Callable[[Sequence[Row], Any], None]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    small_settings: tuple[str, ...] = ()

    def points(self, small: bool, seeds: int | None = None) -> list[tuple[str, int]]:
        """Return the settings and seeds that are measured, a seed's settings together.

        Args:
            small: two seeds of the small settings.
            seeds: how many; those of the claim by default.
        """
        chosen: Sequence[int] = range(seeds) if seeds else self.seeds
        settings = self.settings
        if small:
            chosen = (0, 1)
            settings = self.small_settings or settings
        return [(setting, seed) for seed in chosen for setting in settings]
