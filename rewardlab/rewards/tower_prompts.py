"""Prompts for a tower's text half: its tokenizer, and which prompts its context does not hold."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards.foreign_towers import ForeignTower

LongPrompts = Literal["cut", "refuse"]

_log = logging.getLogger("rewardlab")


class PromptTokenizer:
    """Prompts as the tokens of a tower's text half, whose context may not hold all of them.

    Args:
        tokenizer: called as open_clip's are; None takes open_clip's default when prompts come.
        long_prompts: "cut" cuts the ends of prompts that are too long, counts them and says so
            once; "refuse" refuses them.

    Attributes:
        cut: how many prompts were cut so far, counted anew in each call.
    """

    def __init__(self, tokenizer: Any, long_prompts: LongPrompts) -> None:
        self.tokenizer = tokenizer
        self.long_prompts = long_prompts
        self.cut = 0

    def __call__(self, prompts: list[str], model: nn.Module) -> Tensor:
        """Return the tokens [B, T] of prompts for a model's text half.

        Raises:
            InputError: if the model has no tokenizer, or prompts are too long and are refused.
        """
        if self.tokenizer is None:
            self.tokenizer = default_tokenizer(model)
        ids: Tensor = self.tokenizer(prompts)
        cut = cut_prompts(self.tokenizer, prompts, ids)
        if cut and self.long_prompts == "refuse":
            raise InputError(
                f"{len(cut)} of {len(prompts)} prompts are longer than the {ids.shape[1]} tokens "
                f"that the text tower sees, such as {cut[0][:80]!r}. Shorten them, or let their "
                "ends be cut (conditional=True)."
            )
        if cut and not self.cut:
            _log.warning(
                "The text tower sees %d tokens: %d of %d prompts are longer and lose their ends, "
                "such as %.80r; told once. conditional='refuse' refuses them",
                ids.shape[1],
                len(cut),
                len(prompts),
                cut[0],
            )
        self.cut += len(cut)
        return ids


def default_tokenizer(model: Any) -> Any:
    """Return open_clip's tokenizer with a model's context length.

    Raises:
        InputError: if the model embeds fewer tokens, or is none of open_clip's.
    """
    from open_clip.tokenizer import SimpleTokenizer

    if isinstance(model, ForeignTower):
        raise InputError(
            f"This tower of {type(model.visual).__name__} has no tokenizer, or no text half at "
            "all. Set conditional=False, or take a CLIP-like tower by its folder."
        )
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    if model.vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"The tower's text half knows {model.vocab_size} tokens and open_clip's tokenizer "
            f"makes {tokenizer.vocab_size}. Give a tower with a text half of its own, or set "
            "conditional=False."
        )
    return tokenizer


def cut_prompts(tokenizer: Any, prompts: list[str], ids: Tensor) -> list[str]:
    """Return the prompts that a context does not hold.

    A tokenizer cuts in silence, so long prompts are tokenized with two more tokens of context: what
    was cut differs.

    Args:
        tokenizer: called as open_clip's are.
        prompts: B texts.
        ids: [B, T], what the tokenizer gave for them.
    """
    context = ids.shape[1]
    long = []
    for row, prompt in enumerate(prompts):
        if len(prompt.encode()) + 2 > context:
            long.append(row)
    if not long:
        return []
    wider = tokenizer([prompts[row] for row in long], context_length=context + 2)
    differs = (wider[:, :context] != ids[long]).any(1)
    cut = torch.tensor(long)[differs.cpu()]
    return [prompts[row] for row in cut.tolist()]
