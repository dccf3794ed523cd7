"""How long prompts and rows are in a model's tokens, for the rehearsal's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.rewards.formatting import token_ids
from rewardlab.rewards.language import LanguageReward
from rewardlab.types import PreferencePairs, concatenate

AT_ONCE = 1024  # rows that are tokenized together


def of_prompts(policy: Any, prompts: Sequence[Any]) -> str:
    """Say how many tokens the longest prompt has, alone and with the longest response.

    Returns:
        A phrase; "" for policies without tokens.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6)
        >>> of_prompts(policy, ["a", "abc"])
        'the longest has 3 tokens, with 6 of a response 9 of the 64 of its context'
    """
    if not isinstance(policy, CausalLMPolicy) or not prompts:
        return ""
    longest = 0
    for start in range(0, len(prompts), AT_ONCE):
        rows = policy.texts.prompt_ids(list(prompts[start : start + AT_ONCE]))
        longest = max(longest, *map(len, rows))
    whole = longest + policy.max_new_tokens
    return (
        f"the longest has {longest} tokens, with {policy.max_new_tokens} of a response {whole} of "
        f"the {_of(policy.limit)} its context"
    )


def of_rows(reward: nn.Module, noun: Any) -> str:
    """Say how many tokens the longest of a reward's rows has.

    Args:
        reward: whose tokens are counted, or a combination with such a reward inside.
        noun: Samples or PreferencePairs that it is fitted on.

    Returns:
        A phrase; "" for rewards without tokens, and for pictures.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
        >>> from rewardlab.types import Samples
        >>> of_rows(reward, Samples(["a", "b"], ["c", "def"]))
        'the longest has 5 tokens of the 64 of its context'
    """
    samples = noun
    if isinstance(noun, PreferencePairs):
        samples = concatenate([noun.chosen, noun.rejected])
    parts = [part for part in reward.modules() if isinstance(part, LanguageReward)]
    if not parts or not len(samples) or isinstance(samples.outputs, Tensor):
        return ""
    longest = 0
    for start in range(0, len(samples), AT_ONCE):
        rows = samples[start : start + AT_ONCE]
        ids = token_ids(parts[0].texts, rows.prompts, list(rows.outputs)).ids
        longest = max(longest, *map(len, ids))
    return f"the longest has {longest} tokens of the {_of(parts[0].limit)} its context"


def _of(limit: int | None) -> str:
    return "unlimited ones of" if limit is None else f"{limit} of"
