"""Swaps of tokens: what a reward's gradient expects of each, and what texts they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import EmbedsTokens
from rewardlab.rewards.unscored import checked_for, judged_batch
from rewardlab.types import Samples

if TYPE_CHECKING:
    from rewardlab.rewards.formatting import TokenRows


class Gains(NamedTuple):
    """What swaps of a row's tokens are expected to gain.

    Attributes:
        ids: the row's T tokens, prompt and response.
        start: where the response starts.
        table: float32 [T, V], the change of the score to first order, by place and new token.
    """

    ids: list[int]
    start: int
    table: Tensor


class Response(NamedTuple):
    """Where the tokens of a response lie in a row; nowhere if tokens do not spell it.

    Attributes:
        first: the first that may be swapped.
        end: behind the last.
    """

    first: int
    end: int


class _Source(NamedTuple):
    """A part of the reward: its rows of tokens, its vocabulary, and gradients to its embeddings."""

    rows: TokenRows
    vocabulary: Tensor
    gradients: list[Tensor]


def embedding_parts(reward: Reward) -> list[EmbedsTokens]:
    """Return the parts of a reward that embed tokens; swaps are of the first one's tokens.

    Raises:
        InputError: if there is none.

    Example:
        >>> from rewardlab.rewards import Length
        >>> embedding_parts(Length())
        Traceback (most recent call last):
        rewardlab.errors.InputError: TokenGradient follows a score's gradient to token embeddings...
    """
    parts: list[EmbedsTokens] = []
    for part in reward.modules():
        if isinstance(part, EmbedsTokens):
            parts.append(part)
    if not parts:
        raise InputError(
            "TokenGradient follows a score's gradient to token embeddings, and no part of this "
            f"{type(reward).__name__} derives from EmbedsTokens, as LanguageReward does. Take "
            "RandomEdits, which needs no gradient."
        )
    return parts


def swap_gains(reward: Reward, samples: Samples) -> Iterator[Gains]:
    """Yield, for each sample, g·(e' - e) of every swap, by the gradient g to an embedding e.

    HotFlip, arXiv 1712.06751, equation 10. Parts of the reward with other tokens than the first
    one's do not count.

    Raises:
        InputError: if no part embeds tokens, or no gradient reaches them.
    """
    sources = _sources(reward, samples)
    first = sources[0]
    for i, start in enumerate(first.rows.starts):
        ids = list(first.rows.ids[i])
        table = torch.zeros(len(ids), len(first.vocabulary))
        for source in sources:
            if list(source.rows.ids[i]) == ids:
                for gradient in source.gradients:
                    table += _expected(gradient[i, : len(ids)], ids, source.vocabulary).cpu()
        yield Gains(ids, start, table)


def _sources(reward: Reward, samples: Samples) -> list[_Source]:
    """Return the parts that embed the first one's tokens, with the gradients of the scores."""
    parts = embedding_parts(reward)
    with ExitStack() as stack:
        passes = [stack.enter_context(part.embedded()) for part in parts]
        with torch.inference_mode(False), torch.enable_grad():
            judged = judged_batch(reward, samples)
            name = type(reward).__name__
            scores = checked_for(judged.scores, samples, judged.reasons, name)
            gradients = _gradients(scores, passes)
    if not any(gradients):
        raise InputError(
            f"The scores of this {type(reward).__name__} have no gradient to token embeddings: "
            "they are computed under no_grad, or by steps that cannot be differentiated. Take "
            "RandomEdits, which needs no gradient."
        )
    tokens = parts[0].tokenizer.get_vocab()
    sources = []
    for part, of_part in zip(parts, gradients, strict=True):
        if part.tokenizer.get_vocab() == tokens:
            vocabulary = part.token_embeddings()[: 1 + max(tokens.values())].float()
            sources.append(_Source(part.token_rows(samples), vocabulary, of_part))
    return sources


def _gradients(scores: Tensor, passes: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Return the gradients of the scores' sum to the leaves of each part, those that there are."""
    gradients = []
    for leaves in passes:
        reached: list[Tensor] = []
        if leaves and scores.requires_grad:
            missing = scores.isnan()
            total = scores[~missing].sum()
            found = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
            for gradient in found:
                if gradient is not None:
                    reached.append(gradient.float().masked_fill(missing[:, None, None], 0))
        gradients.append(reached)
    return gradients


def _expected(gradient: Tensor, ids: Sequence[int], vocabulary: Tensor) -> Tensor:
    """Return the first-order change [T, V] of the score by each token at each place."""
    of_tokens = gradient @ vocabulary.T
    present = of_tokens.gather(1, torch.tensor(ids, device=gradient.device)[:, None])
    return of_tokens - present


def response_of(tokenizer: Any, gains: Gains, text: str, kept: int) -> Response:
    """Return where the tokens of a text lie in a row; nowhere if they do not spell it.

    Args:
        tokenizer: of transformers.
        gains: the row.
        text: the response.
        kept: how many characters at its beginning are not to be changed.

    Example:
        >>> from rewardlab.testing import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> row = Gains(tokenizer("hi there").input_ids + [256], 2, torch.zeros(9, 259))
        >>> response_of(tokenizer, row, " there", kept=1)
        Response(first=3, end=8)
    """
    end = len(gains.ids)
    while end > gains.start and spelled(tokenizer, gains.ids[:end], gains.start) != text:
        end -= 1
    first = gains.start
    while first < end and len(spelled(tokenizer, gains.ids[:first], gains.start) or "") < kept:
        first += 1
    return Response(first, end)


def spelled(tokenizer: Any, ids: Sequence[int], start: int) -> str | None:
    """Return the text of a row's tokens behind `start`, None if it depends on what is before."""
    head = _decoded(tokenizer, ids[:start])
    whole = _decoded(tokenizer, ids)
    return whole[len(head) :] if whole.startswith(head) else None


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text
