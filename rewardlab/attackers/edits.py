"""Random edits of what the policy says: the baseline that any search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.attackers.base import check_counts, highest, with_scores
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.seeds import derive, generators, row_seeds
from rewardlab.types import Samples

Kind = Literal["drop", "duplicate", "swap", "noise", "patch"]
WORDS = ("drop", "duplicate", "swap")
PIXELS = ("noise", "patch")


@dataclass(frozen=True)
class RandomEdits:
    """The policy's own samples with random edits; with n above 1 the best of them by the attack
    reward.

    Of a text each word is edited with probability `rate`: dropped, said twice, or swapped with the
    next. An image gets noise of that standard deviation, or a patch of noise of that share of its
    area. Where samples know their length, it is measured anew.

    Args:
        rate: from 0 to 1.
        kinds: which edits; all that suit the outputs by default. Each word, or each image, gets one
            of them.
        n: samples drawn and edited of each prompt.
        keep: how many of them are returned, the best first; all if None.

    Raises:
        InputError: if a rate or count is out of range, or (on use) a kind does not suit the
            outputs.
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
        self, policy: Policy, reward: Reward, prompts: Sequence[str], seed: int
    ) -> Samples:
        drawn = candidates(policy, prompts, self.n, seed)
        return highest(
            with_scores(reward, _measured(policy, self.edit(drawn, seed))), self.n, self.keep
        )

    def edit(self, samples: Samples, seed: int) -> Samples:
        """Return the samples edited, each row by a generator of its own."""
        rows = generators(row_seeds(derive(seed, "edits"), len(samples)))
        images = isinstance(samples.outputs, Tensor)
        kinds = _suiting(self.kinds, PIXELS if images else WORDS)
        change = edited_image if images else edited_text
        outputs = [
            change(output, self.rate, kinds, row)
            for output, row in zip(samples.outputs, rows, strict=True)
        ]
        return Samples(samples.prompts, torch.stack(outputs) if images else outputs, samples.facts)


def edited_text(text: str, rate: float, kinds: Sequence[str], generator: torch.Generator) -> str:
    """Return a text of which each word (what blanks part) was edited with probability `rate`.

    Example:
        >>> [edited_text("one two three", 1.0, [kind], torch.Generator()) for kind in ("swap", "duplicate")]
        ['two three one', 'one one two two three three']
    """
    words = text.split(" ")
    edited = []
    chances = torch.rand(len(words), generator=generator).tolist()
    choices = torch.randint(len(kinds), (len(words),), generator=generator).tolist()
    for i, (chance, choice) in enumerate(zip(chances, choices, strict=True)):
        kind = kinds[choice] if chance < rate else None
        if kind == "swap" and i + 1 < len(words):
            words[i], words[i + 1] = words[i + 1], words[i]
        if kind != "drop":
            edited += [words[i]] * (2 if kind == "duplicate" else 1)
    return " ".join(edited)


def edited_image(
    image: Tensor, rate: float, kinds: Sequence[str], generator: torch.Generator
) -> Tensor:
    """Return an image [C, H, W] or video [F, C, H, W] with noise of deviation `rate`, or a patch of
    that share of its area.

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> int((edited_image(image, 0.25, ["patch"], torch.Generator()) > 0).sum())
        16
    """
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    if kind == "noise":
        return (image + rate * torch.randn(image.shape, generator=generator).to(image)).clamp(0, 1)
    height, width = (round(side * rate**0.5) for side in image.shape[-2:])
    top, left = (
        int(torch.randint(whole - part + 1, (), generator=generator))
        for whole, part in zip(image.shape[-2:], (height, width), strict=True)
    )
    edited = image.clone()
    patch = edited[..., top : top + height, left : left + width]
    patch.copy_(torch.rand(patch.shape, generator=generator))
    return edited


def _suiting(kinds: Sequence[str] | None, suiting: Sequence[str]) -> Sequence[str]:
    """The kinds asked for, or all that suit."""
    wrong = [kind for kind in kinds or [] if kind not in suiting]
    if wrong or kinds == []:
        raise InputError(
            f"RandomEdits of these outputs are {', '.join(suiting)}; got {kinds}. Leave kinds out for all of them."
        )
    return suiting if kinds is None else kinds


def _measured(policy: Policy, samples: Samples) -> Samples:
    """Replace the fact "length", where there is one, by that of the outputs as they are now."""
    if "length" not in samples.facts:
        return samples
    steps = policy.encode(samples, seeds=torch.zeros(len(samples), dtype=torch.long)).mask.sum(1)
    return samples.with_facts(length=steps.to(samples.facts["length"]))
