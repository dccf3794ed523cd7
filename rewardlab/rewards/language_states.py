"""Hidden states for the heads of a LanguageReward: rows run through a backbone, and pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.networks.loading import takes_positions
from rewardlab.networks.sharing import keeps_only_keys_and_values, prompt_cache, saves_enough
from rewardlab.networks.tokens import padded, positions_of
from rewardlab.rewards.formatting import BatchRows
from rewardlab.types import distinct


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


def shared_states(backbone: Any, rows: BatchRows, pad: int | None) -> TokenStates:
    """Run each distinct prompt once, then the responses; states are those of the responses.

    The keys and values of a prompt serve all rows that have it.

    Args:
        backbone: of transformers, without a head, for which `keeps_prompts` holds.
        rows: B rows of ids, each with a prompt.
        pad: the id that pads.
    """
    device = backbone.device
    prompts = []
    responses = []
    for ids, start in zip(rows.ids, rows.starts, strict=True):
        prompts.append(tuple(ids[:start]))
        responses.append(ids[start:])
    unique = distinct(prompts)
    prompt_table = padded(unique.values, pad or 0, left=True, device=device)
    prompt_mask = prompt_table.mask.long()
    cache = prompt_cache(backbone, prompt_table.ids, prompt_mask, positions_of(prompt_mask))
    prompt_of_row = torch.tensor(unique.places, device=device)
    cache.batch_select_indices(prompt_of_row)
    response_table = padded(responses, pad or 0, device=device)
    mask = torch.cat([prompt_mask[prompt_of_row], response_table.mask.long()], 1)
    width = prompt_mask.shape[1]
    output = backbone(
        input_ids=response_table.ids,
        attention_mask=mask,
        position_ids=positions_of(mask)[:, width:],
        past_key_values=cache,
        use_cache=True,
    )
    spans = _spans([0] * len(responses), responses)
    return TokenStates(output.last_hidden_state, response_table.ids, spans.to(device))


def keeps_prompts(backbone: Any) -> bool:
    """Tell whether a backbone's keys and values of a prompt are all that its responses need."""
    return takes_positions(backbone) and keeps_only_keys_and_values(backbone)


def worth_sharing(rows: BatchRows, pad: int | None) -> bool:
    """Tell whether running each prompt once saves enough and changes no score.

    Every row needs a prompt, and a token of its response that does not pad: the last such token is
    what is scored.
    """
    if not all(rows.starts):
        return False
    prompts = set()
    has_own_token = True
    for ids, start in zip(rows.ids, rows.starts, strict=True):
        prompts.add(tuple(ids[:start]))
        has_own_token &= any(token != pad for token in ids[start:])
    spared = sum(rows.starts) - sum(map(len, prompts))
    return has_own_token and saves_enough(spared, sum(map(len, rows.ids)))


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
