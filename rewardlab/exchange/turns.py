"""Samples of what TRL hands to reward functions, and what our samples are there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from rewardlab.conversations import Conversation, Prompt
from rewardlab.errors import InputError
from rewardlab.storage.exchanges import UnusableError, exchange
from rewardlab.types import Samples


def samples_of(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    end_tokens: Collection[int] | None = None,
) -> Samples:
    """Return the samples of B prompts and completions, each a text or a list of messages.

    A completion's last message is the response, and messages before it belong to the prompt.

    Args:
        prompts: as TRL has them.
        completions: as TRL has them.
        completion_ids: the completions' tokens, which give the fact "length".
        end_tokens: tokens that end a completion. With `completion_ids` they give the fact
            "finished": a completion that ends by none of them was cut off.

    Raises:
        InputError: naming the first completion that cannot be read.

    Example:
        >>> asked = [{"role": "user", "content": "2+2?"}]
        >>> samples_of([asked], [[{"role": "assistant", "content": "4"}]], [[52, 1]], [1]).facts
        {'length': tensor([2]), 'finished': tensor([True])}
    """
    if len(prompts) != len(completions):
        raise InputError(
            "A reward function gets a completion for each prompt; got "
            f"{len(prompts)} prompts and {len(completions)} completions. Who calls it?"
        )
    read_prompts = []
    outputs = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            pair = exchange(prompt, completion)
        except UnusableError as reason:
            raise InputError(
                f"Completion {row} is one {reason}: {str(completion)[:100]!r}. A reward function "
                "takes texts, or lists of messages that end with the assistant's text."
            ) from None
        read_prompts.append(pair.prompt)
        outputs.append(pair.response)
    return Samples(read_prompts, outputs, _facts(completion_ids, end_tokens))


def answer_message(response: str) -> list[dict[str, str]]:
    """Return a response as the list of one message that TRL has it.

    Example:
        >>> answer_message("4")
        [{'role': 'assistant', 'content': '4'}]
    """
    return [{"role": "assistant", "content": response}]


def are_conversational(prompts: Sequence[Prompt], asked: bool | None) -> bool:
    """Tell whether rows are written as messages: as asked for, or where a prompt is one.

    All rows are written alike, since a column of TRL's data sets has one form.

    Raises:
        InputError: if texts are asked for and a prompt is a conversation.

    Example:
        >>> are_conversational(["hi"], None), are_conversational(["hi"], True)
        (False, True)
    """
    talks = [prompt for prompt in prompts if isinstance(prompt, Conversation)]
    if asked is False and talks:
        raise InputError(
            f"{len(talks)} of {len(prompts)} prompts are conversations, which texts cannot hold; "
            f"the first is {str(talks[0])[:60]!r}. Leave `conversational` out, or give True."
        )
    return bool(talks) if asked is None else asked


def _facts(
    completion_ids: Sequence[Sequence[int]] | None, end_tokens: Collection[int] | None
) -> dict[str, Tensor]:
    """Return what the tokens of completions say of them."""
    if completion_ids is None:
        return {}
    facts = {"length": torch.tensor([len(ids) for ids in completion_ids], dtype=torch.int64)}
    if end_tokens:
        ended = [bool(ids) and ids[-1] in end_tokens for ids in completion_ids]
        facts["finished"] = torch.tensor(ended, dtype=torch.bool)
    return facts
