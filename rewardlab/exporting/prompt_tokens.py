"""Prompts of an exported reward of images: by which tokenizer they become tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.towers import Tower
from rewardlab.rewards.transformers_towers import PaddedTexts

PROMPTS = ("a cat", "Two dogs, one red and one blue, on a wet street at night.")


class PromptTokens(NamedTuple):
    """A tokenizer of prompts.

    Attributes:
        library: whose it is: "open_clip", by its name alone, or "transformers", in the folder.
        context: T, tokens of a row.
        tokenizer: called with texts it gives ids [B, T].
    """

    library: Literal["open_clip", "transformers"]
    context: int
    tokenizer: Any

    def ids(self, prompts: list[str]) -> Tensor:
        """Return the tokens of B prompts, int64 [B, T]."""
        ids: Tensor = self.tokenizer(prompts)
        return ids

    def write(self, folder: Path) -> None:
        """Write the tokenizer into a folder, if it is not open_clip's own."""
        if self.library == "transformers":
            self.tokenizer.tokenizer.save_pretrained(folder)


def prompt_tokens(tower: Tower) -> PromptTokens:
    """Return the tokenizer of a tower's text half, as whoever loads the folder gets it.

    Raises:
        InputError: if it is neither open_clip's own nor one of transformers.
    """
    from open_clip.tokenizer import SimpleTokenizer

    own = tower.tokenizer
    model: Any = tower.model
    if isinstance(own, PaddedTexts):
        return PromptTokens("transformers", own.context_length, own)
    context = getattr(own, "context_length", None) or model.context_length
    plain = PromptTokens("open_clip", context, SimpleTokenizer(context_length=context))
    if own is not None and not plain.ids(list(PROMPTS)).equal(own(list(PROMPTS))):
        raise InputError(
            f"An export tokenizes the prompts of an open_clip tower by open_clip's own tokenizer, "
            f"and this tower has another, a {type(own).__name__}. Take a tower with open_clip's, "
            "or one of transformers; or let `rewardlab export --to flow-factory` write a reward "
            "that loads the whole."
        )
    return plain
