"""Prompts for a tower's text half: its tokenizer, and which prompts its context does not hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.foreign_towers import ForeignTower


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
