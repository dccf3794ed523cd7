"""The linear heads of a LanguageReward: new ones from a seed, or a classifier's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.labels import check_members, one_head
from rewardlab.seeds import derive


def new_heads(heads: int, width: int, seed: int) -> Tensor:
    """Draw heads [K, D], normal with deviation 1/√(D + 1), as arXiv 2009.01325 does.

    Head k is the same whatever their number.

    Raises:
        InputError: if there are none.

    Example:
        >>> torch.equal(new_heads(3, 8, seed=0)[:2], new_heads(2, 8, seed=0))
        True
    """
    if heads < 1:
        raise InputError(f"A reward needs at least one head; got heads={heads}.")
    rows = []
    for k in range(heads):
        generator = torch.Generator().manual_seed(derive(seed, "head", k))
        rows.append(torch.randn(width, generator=generator))
    scale: float = (width + 1) ** 0.5
    return torch.stack(rows) / scale


def chosen_heads(
    weight: Tensor | None, config: Any, heads: int, label: str | int | None, is_own: bool
) -> Tensor | None:
    """Return the rows of a classifier's head [K, D] that score, None for a model without one.

    Args:
        weight: of the head.
        config: of the classifier.
        heads: how many are asked for. Of one, it is the log-odds of a label.
        label: the one that is named.
        is_own: whether a LanguageReward wrote the model, whose heads are members.

    Raises:
        InputError: if a label is named and no single head of a classifier is asked for, or the
            heads are the labels of one choice.
    """
    if weight is not None and heads == 1:
        return one_head(weight, config, label)
    if label is not None:
        raise InputError(
            f"A label is one head of a classifier; got label={label!r} with heads={heads} of a "
            f"{'model without one' if weight is None else 'classifier'}."
        )
    if weight is not None and len(weight) == heads and not is_own:
        check_members(config, heads)
    return weight


def checked_heads(weight: Tensor, heads: int) -> Tensor:
    """Return a copy in float32 of a classifier's head [K, D], if it has as many rows as asked for.

    Raises:
        InputError: if it has another number.
    """
    if len(weight) != heads:
        raise InputError(
            f"The model is a classifier with {len(weight)} scores, and heads={heads} were asked "
            f"for. heads=1 scores the log-odds of one label (label=...); heads={len(weight)} takes "
            "scores that are apart as members of an ensemble, whose mean is the reward. For new "
            "heads, give its backbone."
        )
    return weight.float().clone()
