"""Drawing tokens: a row's randomness is its own, so that a row is the same in any batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.text import padded
from rewardlab.seeds import generators

Tokens = list[list[int]]
Step = Callable[[Tensor, Tensor, Tensor, Any], tuple[Tensor, Any]]


def draw(
    step: Step,
    prompts: Tokens,
    seeds: Tensor,
    room: Sequence[int],
    ended: Callable[[list[int]], bool],
    device: torch.device,
) -> tuple[Tokens, list[bool]]:
    """Draw a response to each prompt from the softmax of its logits, token by token, with one
    random number a token.

    Args:
        step: takes tokens [B, S], the mask of all tokens so far, positions [B, S] and a cache (None
            at first); returns the logits of the next token, float32 [B, V], and the cache.
        prompts: tokens of B prompts, none empty. They are padded on the left.
        seeds: int64 [B].
        room: how many tokens each response may have, at least 1.
        ended: whether a response ends with the tokens that it has.
        device: of the network.

    Returns:
        The responses with the tokens that ended them, and whether each did end before its room did.
    """
    tokens, mask = (tensor.to(device) for tensor in padded(prompts, left=True))
    positions = mask.long().cumsum(1).sub(1).clamp_min(0)
    numbers = uniform(seeds, max(room, default=0))
    cache = None
    summed_on = (
        torch.device("cpu")
        if device.type == "mps" or torch.are_deterministic_algorithms_enabled()
        else device
    )
    numbers = numbers.to(
        summed_on
    )  # Metal has no float64, and CUDA's sums are not the same each time
    drawn: Tokens = [[] for _ in prompts]
    finished = [False] * len(prompts)
    for count in range(1, max(room, default=0) + 1):
        logits, cache = step(tokens, mask, positions, cache)
        choice = pick(logits.to(summed_on), numbers[:, count - 1]).to(device)
        open_rows = [row for row, limit in enumerate(room) if not finished[row] and count <= limit]
        picked = choice.tolist()
        if max(picked, default=0) >= logits.shape[1]:  # where a sum is NaN, no number is below it
            raise InputError(
                "The policy's logits are not finite, so no token can be drawn. Did training diverge? Lower the learning rate, "
                "or go back to the last checkpoint; in float16 take bfloat16."
            )
        for row in open_rows:
            drawn[row].append(picked[row])
            finished[row] = ended(drawn[row])
        going = [not finished[row] and count < limit for row, limit in enumerate(room)]
        if not any(going):
            break
        tokens = choice[:, None]
        mask = torch.cat([mask, torch.tensor(going, device=device)[:, None]], 1)
        positions = positions[:, -1:] + mask[:, -1:]  # a row that is done stays where it is
    return drawn, finished


def uniform(seeds: Tensor, count: int) -> Tensor:
    """Numbers [B, count] in [0, 1), float64, each row from its own generator: all that a response's
    randomness needs.

    Example:
        >>> from rewardlab.seeds import row_seeds
        >>> uniform(row_seeds(0, 2), 3).shape
        torch.Size([2, 3])
    """
    numbers = torch.empty(len(seeds), count, dtype=torch.float64)
    for row, generator in zip(numbers, generators(seeds), strict=True):
        torch.rand(count, generator=generator, out=row)
    return numbers


def pick(logits: Tensor, numbers: Tensor) -> Tensor:
    """The token [B] at which the softmax of logits [B, V], summed from the first token on, passes
    each number in [0, 1).

    Sums are in float64: float32's would lose the rarest of many tokens. A token of logit -inf is
    never picked.

    Example:
        >>> pick(torch.tensor([[0.5, 0.0, 0.3, 0.2]]).log().expand(3, 4), torch.tensor([0.0, 0.5, 0.9])).tolist()
        [0, 2, 3]
    """
    mass = (logits - logits.amax(1, keepdim=True)).exp_().cumsum(1, dtype=torch.float64)
    total = mass[:, -1:]
    place = torch.minimum(numbers[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, place, right=True)[:, 0]


def truncated(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Forbid all but the `top_k` likeliest tokens, then all but the fewest that hold `top_p` of the
    rest (arXiv 1904.09751).

    Example:
        >>> truncated(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_k=0, top_p=0.6).exp()
        tensor([[0.5000, 0.3000, 0.0000]])
    """
    if 0 < top_k < logits.shape[1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        values, order = logits.sort(1, descending=True)
        share = values.softmax(1)
        beyond = share.cumsum(1) - share >= top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
    return logits


def completes(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether the last of `tokens` completed a stop string. Only a tail is looked at: a character
    is at most 4 tokens.
    """
    if not stop:
        return False
    tail = list(tokens[-4 * max(map(len, stop)) - 4 :])
    text = tokenizer.decode(tail, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return any(word in text for word in stop)
