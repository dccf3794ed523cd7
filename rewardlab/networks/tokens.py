"""Token ids in batches: how many fit, what pads them, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.types import Samples

# digits, spaces, contractions and scripts: where tokenizers of the same tokens part
PROBE_TEXT = "What is 12345678?  It's x+y = 7.\n\n\tdéjà vu 日本語 HELLO"
# what a saved folder is tried on: the first that fits the context
PROBES = (
    Samples(["What is 12345678?", "hello"], ["It's 90.", " a cat"]),
    Samples(["12"], ["3"]),
)


class Padded(NamedTuple):
    """Token ids of rows of different length in one table.

    Attributes:
        ids: int64 [B, T].
        mask: bool [B, T], true where an id is no padding.
    """

    ids: Tensor
    mask: Tensor


def padded(
    rows: Sequence[Sequence[int]],
    token: int = 0,
    left: bool = False,
    device: torch.device | str = "cpu",
) -> Padded:
    """Return rows of token ids as one table, filled up to the longest with a token.

    Args:
        rows: B rows of ids.
        token: the id that fills up.
        left: fill up on the left; by default on the right.
        device: where the tables are to lie.

    Example:
        >>> ids, mask = padded([[5, 6], [7]], left=True)
        >>> ids.tolist(), mask.tolist()
        ([[5, 6], [0, 7]], [[True, True], [False, True]])
    """
    width = max(map(len, rows), default=0)
    filled = []
    for row in rows:
        filling = [token] * (width - len(row))
        filled.append([*filling, *row] if left else [*row, *filling])
    ids = torch.tensor(filled, dtype=torch.long).view(len(rows), width)
    columns = torch.arange(width)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)[:, None]
    mask = columns < lengths
    if left:
        mask = columns >= width - lengths
    return Padded(ids.to(device), mask.to(device))


def unpadded(table: Padded) -> list[list[int]]:
    """Return the token ids of each row without padding, wherever that stands.

    Example:
        >>> unpadded(padded([[5, 6], [7]], left=True))
        [[5, 6], [7]]
    """
    rows = []
    for ids, is_token in zip(table.ids.tolist(), table.mask.tolist(), strict=True):
        rows.append(list(compress(ids, is_token)))
    return rows


def positions_of(mask: Tensor) -> Tensor:
    """Return the position [B, T] of each token in its row, from the mask [B, T] of no padding.

    Example:
        >>> positions_of(torch.tensor([[False, True, True]])).tolist()
        [[0, 0, 1]]
    """
    return mask.cumsum(1).sub(1).clamp_min(0)


def pad_token(tokenizer: Any, model_pad: int | None = None) -> int:
    """Return the id that pads: the model's own, else the tokenizer's, else its end token's.

    Args:
        tokenizer: of transformers, with one of the two; see `check_padding`.
        model_pad: the one that the model's config names.
    """
    for token in (model_pad, tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise AssertionError("check_padding refuses a tokenizer with neither token")


def context_length(network: Any) -> int | None:
    """Return how many positions the network has, or None if its config does not say."""
    return getattr(network.config.get_text_config(), "max_position_embeddings", None)


def token_limit(max_length: int | None, network: Any, tokenizer: Any) -> int | None:
    """Return how many tokens of a row count: the least that user, network and tokenizer allow.

    Returns None if none of the three sets a limit.
    """
    limits = [max_length, context_length(network), tokenizer.model_max_length]
    return min([limit for limit in limits if limit is not None], default=None)


def check_padding(tokenizer: Any) -> None:
    """Refuse a tokenizer that has nothing to pad with.

    Raises:
        InputError: if it has neither a padding nor an end token.
    """
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise InputError(
            "The tokenizer has neither a padding nor an end token, so rows cannot be batched. "
            "Set its pad_token."
        )


def check_words(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that knows its marks alone, which makes no difference between texts.

    transformers makes such a one, and says nothing, for a folder that holds a model's config.json
    and no vocabulary.

    Args:
        tokenizer: of transformers.
        name: where it comes from, for the message.

    Raises:
        InputError: if its vocabulary holds no word.
    """
    marks = tokenizer.added_tokens_encoder
    for token in tokenizer.get_vocab():
        if token not in marks and token.strip("▁ "):
            return
    raise InputError(
        f"{name} gives a tokenizer without a vocabulary ({type(tokenizer).__name__} with "
        f"{len(tokenizer)} tokens, all of them marks). Copy the tokenizer's files, such as "
        "tokenizer.json, into it from the model's own folder, or name that folder as the tokenizer."
    )


def check_vocabulary(tokenizer: Any, network: Any, needed: int | None = None) -> None:
    """Refuse a tokenizer with more tokens than the network embeds.

    Args:
        tokenizer: of transformers.
        network: of transformers, with input embeddings.
        needed: how many tokens have to be embedded; by default all of the tokenizer's. Added tokens
            that are never used may be left out.

    Raises:
        InputError: if the network embeds fewer.
    """
    embedded = network.get_input_embeddings().num_embeddings
    if needed is None:
        needed = len(tokenizer)
    if needed > embedded:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} tokens, but the backbone embeds {embedded}. "
            "Do they belong to one model?"
        )


def check_same_tokens(tokenizer: Any, loaded: Any, folder: Any) -> None:
    """Refuse a saved tokenizer that cuts texts otherwise than the one in use.

    Args:
        tokenizer: in use.
        loaded: from the folder.
        folder: for the message.

    Raises:
        InputError: if their ids of a probe text, or their chat templates, differ.
    """
    for special in (True, False):
        ids = tokenizer(PROBE_TEXT, add_special_tokens=special).input_ids
        loaded_ids = loaded(PROBE_TEXT, add_special_tokens=special).input_ids
        if list(ids) != list(loaded_ids):
            raise InputError(
                f"The tokenizer that {folder} gives back is another than was used: the "
                f"{len(ids)} ids of a probe text became {len(loaded_ids)}, from {ids[:5]} to "
                f"{loaded_ids[:5]}. transformers takes the class that config.json or "
                "tokenizer_config.json names for it. Use a tokenizer of the model's own class."
            )
    if getattr(tokenizer, "chat_template", None) != getattr(loaded, "chat_template", None):
        raise InputError(
            f"The tokenizer that {folder} gives back has another chat template than was used. "
            "Set the tokenizer's chat_template to one text."
        )
