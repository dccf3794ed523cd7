"""Queries: texts that hold a prompt and its response, as a trainer's chat template wrote them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakSet

import torch

from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens
from rewardlab.rewards.base import Reward
from rewardlab.types import Samples

_log = logging.getLogger("rewardlab")
_told: WeakSet[TextTokens] = WeakSet()
SHORTEST = 16  # letters of a prompt that was cut from the left, by which it is told in a query


def query_samples(
    reward: Reward, queries: Sequence[str], prompts: Sequence[str], ends: Sequence[str] = ()
) -> Samples:
    """Return the samples of queries, whose prompts are not formatted a second time.

    A query is the prompt and the response behind it, special tokens included. Where a chat template
    wrote the prompt, the reward takes it as it is if the template is its own. A mark that ends the
    response is taken off, since the reward writes its own, and says that the response is finished;
    where such marks are known, a response without one was cut off.

    Args:
        reward: that will score them.
        queries: B texts.
        prompts: B texts, as the trainer had them; the query may begin with the last part alone.
        ends: further marks that end a response, such as the policy's end token.

    Raises:
        InputError: if a query does not begin with its prompt.

    Example:
        >>> from rewardlab.rewards import Length
        >>> samples = query_samples(Length(), ["Hi. Hello!</s>"], ["Hi. "], ["</s>"])
        >>> samples.outputs, samples.facts["finished"].tolist()
        (['Hello!'], [True])
    """
    texts = _text_tokens(reward)
    marks = [*ends, *_own_ends(texts)]
    kept_prompts = []
    outputs = []
    finished = []
    for query, prompt in zip(queries, prompts, strict=True):
        kept = _kept_prompt(query, prompt)
        response, ended = _without_end(query[len(kept) :], marks)
        kept_prompts.append(kept)
        outputs.append(response)
        finished.append(ended)
    if texts is not None:
        _tell_of_foreign(texts, kept_prompts)
    return Samples(kept_prompts, outputs, {"finished": torch.tensor(finished, dtype=torch.bool)})


def _kept_prompt(query: str, prompt: str) -> str:
    """Return what a query holds of its prompt: all, or the end where it was cut from the left."""
    if query.startswith(prompt):
        return prompt
    for start in range(1, len(prompt) - SHORTEST + 1):
        if query.startswith(prompt[start:]):
            return prompt[start:]
    raise InputError(
        f"A query should begin with its prompt, or with the end of it; got the query "
        f"{query[:100]!r} for the prompt {prompt[:100]!r}. Does the trainer's tokenizer give texts "
        "back as they were?"
    )


def _text_tokens(reward: Reward) -> TextTokens | None:
    """Return how the first part of a reward that formats texts does so, None without one."""
    for part in reward.modules():
        texts = getattr(part, "texts", None)
        if isinstance(texts, TextTokens):
            return texts
    return None


def _own_ends(texts: TextTokens | None) -> list[str]:
    """Return the marks by which the reward's own texts end."""
    if texts is None:
        return []
    ends = [texts.turns.closing.strip(), texts.tokenizer.eos_token]
    return [end for end in ends if end]


def _without_end(response: str, ends: Sequence[str]) -> tuple[str, bool]:
    """Return a response without the mark that ends it, and whether there is one."""
    if not ends:
        return response, True
    stripped = response.rstrip("\n")
    for end in ends:
        if stripped.endswith(end):
            return stripped[: len(stripped) - len(end)], True
    return response, False


def _tell_of_foreign(texts: TextTokens, prompts: Sequence[str]) -> None:
    """Say once that a reward with a template formats prompts which that template did not write."""
    foreign = [prompt for prompt in prompts if not texts.is_formatted(prompt)]
    if not texts.turns.written or not foreign or texts in _told:
        return
    _told.add(texts)
    _log.warning(
        "The reward's chat template did not write the prompt %.100r, so it is formatted as the "
        "user's text. That is right for plain prompts; where the policy's own template wrote it, "
        "send plain prompts, or take a reward of the policy's family; told once",
        foreign[0],
    )
