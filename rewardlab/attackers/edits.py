"""Random edits of what the policy says: the baseline that any search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.attackers.base import check_counts, highest, scored_only, with_length, with_scores
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Generator
from rewardlab.rewards import Reward
from rewardlab.seeds import derive, generators, row_seeds
from rewardlab.types import Samples

Kind = Literal["drop", "duplicate", "swap", "noise", "patch"]
WORDS = ("drop", "duplicate", "swap")
PIXELS = ("noise", "patch")


@dataclass(frozen=True)
class RandomEdits:
    """Edit the policy's own samples at random, and keep the best of n by the attack reward.

    Of a text each word is edited with probability `rate`: dropped, said twice, or swapped with the
    next. An image gets noise of that standard deviation, or a patch of noise of that share of its
    area. Where samples have the fact "length", the policy measures it anew.

    Args:
        rate: probability or size of an edit, from 0 to 1.
        kinds: kinds of edits; by default all that suit the outputs. Each word, or each image, gets
            one of them.
        n: samples drawn and edited of each prompt.
        keep: samples returned of each prompt, the best first; all if None.

    Raises:
        InputError: if a rate or count is out of range, or (on use) a kind does not suit the
            outputs, or a length has to be measured and the policy cannot encode outputs.
    """

    rate: float = 0.2
    kinds: list[Kind] | None = None
    n: int = 1
    keep: int | None = 1

    def __post_init__(self) -> None:
        check_counts("RandomEdits", self.n, self.keep)
        if not 0 <= self.rate <= 1:
            raise InputError(f"RandomEdits takes a rate from 0 to 1; got {self.rate:g}.")

    def __call__(
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        samples = candidates(policy, prompts, self.n, seed)
        edited = with_length(policy, self.edit(samples, seed), "RandomEdits")
        return scored_only(highest(with_scores(reward, edited), self.n, self.keep))

    def edit(self, samples: Samples, seed: int) -> Samples:
        """Return the samples edited, each row by a generator of its own."""
        seeds = row_seeds(derive(seed, "edits"), len(samples))
        rows = generators(seeds)
        outputs: Tensor | list[str]
        if isinstance(samples.outputs, Tensor):
            outputs = self._edited_images(samples.outputs, rows)
        else:
            outputs = self._edited_texts(samples.outputs, rows)
        return Samples(samples.prompts, outputs, samples.facts)

    def _edited_images(self, images: Tensor, rows: list[torch.Generator]) -> Tensor:
        kinds = _suiting(self.kinds, PIXELS)
        edited = []
        for image, row in zip(images, rows, strict=True):
            edited.append(edited_image(image, self.rate, kinds, row))
        return torch.stack(edited)

    def _edited_texts(self, texts: Sequence[str], rows: list[torch.Generator]) -> list[str]:
        kinds = _suiting(self.kinds, WORDS)
        edited = []
        for text, row in zip(texts, rows, strict=True):
            edited.append(edited_text(text, self.rate, kinds, row))
        return edited


def edited_text(text: str, rate: float, kinds: Sequence[str], generator: torch.Generator) -> str:
    """Return a text of which each word was edited with probability `rate`.

    Words are what single blanks part.

    Example:
        >>> edited_text("one two three", 1.0, ["swap"], torch.Generator())
        'two three one'
        >>> edited_text("one two three", 1.0, ["duplicate"], torch.Generator())
        'one one two two three three'
    """
    words = text.split(" ")
    edited = []
    edits = _kinds_of_words(len(words), rate, kinds, generator)
    for i, kind in enumerate(edits):
        if kind == "swap" and i + 1 < len(words):
            following = words[i + 1]
            words[i + 1] = words[i]
            words[i] = following
        if kind != "drop":
            edited.append(words[i])
        if kind == "duplicate":
            edited.append(words[i])
    return " ".join(edited)


def _kinds_of_words(
    count: int, rate: float, kinds: Sequence[str], generator: torch.Generator
) -> list[str | None]:
    """Return the kind of each word's edit, or None for a word that stays."""
    chances = torch.rand(count, generator=generator)
    choices = torch.randint(len(kinds), (count,), generator=generator)
    edits: list[str | None] = []
    for chance, choice in zip(chances.tolist(), choices.tolist(), strict=True):
        if chance < rate:
            edits.append(kinds[choice])
        else:
            edits.append(None)
    return edits


def edited_image(
    image: Tensor, rate: float, kinds: Sequence[str], generator: torch.Generator
) -> Tensor:
    """Return an image with noise of deviation `rate`, or a patch of that share of its area.

    The image is [C, H, W], or a video [F, C, H, W].

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> int((edited_image(image, 0.25, ["patch"], torch.Generator()) > 0).sum())
        16
    """
    choice = int(torch.randint(len(kinds), (), generator=generator))
    if kinds[choice] == "noise":
        noise = torch.randn(image.shape, generator=generator).to(image)
        return (image + rate * noise).clamp(0, 1)
    *_, image_height, image_width = image.shape
    height = round(image_height * rate**0.5)
    width = round(image_width * rate**0.5)
    top = _random_offset(image_height, height, generator)
    left = _random_offset(image_width, width, generator)
    edited = image.clone()
    rows = slice(top, top + height)
    columns = slice(left, left + width)
    patch = edited[..., rows, columns]
    noise = torch.rand(patch.shape, generator=generator)
    patch.copy_(noise)
    return edited


def _random_offset(side: int, patch: int, generator: torch.Generator) -> int:
    """Return where a patch begins that lies within a side."""
    offset = torch.randint(side - patch + 1, (), generator=generator)
    return int(offset)


def _suiting(kinds: Sequence[str] | None, suiting: Sequence[str]) -> Sequence[str]:
    """Return the kinds that were asked for, or all that suit the outputs."""
    wrong = [kind for kind in kinds or [] if kind not in suiting]
    if wrong or kinds == []:
        raise InputError(
            f"RandomEdits of these outputs are {', '.join(suiting)}; got {kinds}. "
            "Leave kinds out for all of them."
        )
    return suiting if kinds is None else kinds
