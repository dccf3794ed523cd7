"""Hidden states for the heads of a LanguageReward: rows run through a backbone, and pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.networks import packing
from rewardlab.networks.tokens import padded
from rewardlab.rewards.formatting import BatchRows


class TokenStates(NamedTuple):
    """A backbone's last hidden states.

    Attributes:
        states: [B, T, D], a state a token.
        ids: int64 [B, T], the tokens, padded on the right.
        spans: int64 [B, 2], where each row's response starts and ends.
    """

    states: Tensor
    ids: Tensor
    spans: Tensor


def whole_states(backbone: Any, rows: BatchRows, pad: int | None) -> TokenStates:
    """Run each row whole, its prompt and its response.

    Args:
        backbone: of transformers, without a head.
        rows: B rows of ids.
        pad: the id that pads.
    """
    ids, mask = padded(rows.ids, pad or 0, device=backbone.device)
    output = backbone(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    spans = _spans(rows.starts, rows.ids)
    return TokenStates(output.last_hidden_state, ids, spans.to(backbone.device))


def packed_states(backbone: Any, rows: BatchRows, pad: int | None) -> TokenStates:
    """Run rows packed, where that costs less than running them whole.

    States are those of the responses, or of whole rows.

    Args:
        backbone: of transformers, without a head, for which `packable.packs` holds.
        rows: B rows of ids.
        pad: the id that pads.
    """
    hidden = backbone.config.get_text_config().hidden_size
    lines = packing.cheaper(rows.ids, rows.starts, hidden)
    if lines is None or not _have_own_tokens(rows, pad):
        return whole_states(backbone, rows, pad)
    filler = pad or 0
    table = packing.packed(rows.ids, rows.starts, lines, filler, backbone.device)
    states = packing.run_packed(backbone, table)
    ids = table.responses(table.ids)
    columns = torch.arange(ids.shape[1], device=ids.device)
    is_own = columns < table.lengths[:, None]
    starts = torch.zeros_like(table.lengths)
    spans = torch.stack([starts, table.lengths], 1)
    return TokenStates(table.responses(states), ids.where(is_own, filler), spans)


def _have_own_tokens(rows: BatchRows, pad: int | None) -> bool:
    """Tell whether every response has a token that does not pad."""
    for ids, start in zip(rows.ids, rows.starts, strict=True):
        own_tokens = set(ids[start:])
        own_tokens.discard(pad)
        if not own_tokens:
            return False
    return True


def pooled_states(tokens: TokenStates, pooling: str, pad: int | None) -> Tensor:
    """Return the state of each row that heads see, float32 [B, D]: "last" or "mean"."""
    return last_states(tokens, pad) if pooling == "last" else mean_states(tokens)


def last_states(tokens: TokenStates, pad: int | None) -> Tensor:
    """Return the state of each row's last token that is not the padding token, float32 [B, D].

    Without a padding token it is the row's very last.
    """
    if pad is None:
        last = tokens.spans[:, 1] - 1
    else:
        is_token = tokens.ids != pad
        last = (_columns(tokens) * is_token).argmax(1)
    rows = torch.arange(len(last))
    return tokens.states[rows, last].float()


def mean_states(tokens: TokenStates) -> Tensor:
    """Return the mean over the states of each row's response, float32 [B, D]."""
    is_response = response_mask(tokens)
    sums = tokens.states.float().where(is_response[..., None], 0).sum(1)
    means: Tensor = sums / is_response.sum(1, keepdim=True)
    return means


def response_mask(tokens: TokenStates) -> Tensor:
    """Return where the table holds tokens of responses, bool [B, T]."""
    columns = _columns(tokens)
    starts, ends = tokens.spans.split(1, dim=1)
    mask: Tensor = (columns >= starts) & (columns < ends)
    return mask


def _columns(tokens: TokenStates) -> Tensor:
    """Return the number of each column of the table, [T]."""
    return torch.arange(tokens.ids.shape[1], device=tokens.ids.device)


def _spans(starts: Sequence[int], rows: Sequence[Sequence[int]]) -> Tensor:
    """Return where each row's response starts and ends, int64 [B, 2]."""
    ends = [len(row) for row in rows]
    return torch.tensor([starts, ends]).T
