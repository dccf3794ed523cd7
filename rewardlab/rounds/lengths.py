"""How long prompts and rows are in a model's tokens, for the rehearsal's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rewardlab.networks.text_format import FormatsTexts
from rewardlab.policies.abilities import LengthLimited
from rewardlab.types import PreferencePairs, Samples, concatenate

AT_ONCE = 1024  # rows that are tokenized together


def of_prompts(policy: Any, prompts: Sequence[Any]) -> str:
    """Say how many tokens the longest prompt has, alone and with the longest response.

    Returns:
        A phrase; "" for policies without tokens.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> from rewardlab import CausalLMPolicy
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6)
        >>> of_prompts(policy, ["a", "abc"])
        'the longest has 3 tokens, with 6 of a response 9 of the 64 of its context'
    """
    is_text = isinstance(policy, FormatsTexts) and isinstance(policy, LengthLimited)
    if not is_text or not prompts:
        return ""
    longest = 0
    for start in range(0, len(prompts), AT_ONCE):
        some = list(prompts[start : start + AT_ONCE])
        counts = policy.token_counts(Samples(some, [""] * len(some)))
        longest = max(longest, *counts.prompts)
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
        >>> from rewardlab import LanguageReward
        >>> reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
        >>> of_rows(reward, Samples(["a", "b"], ["c", "def"]))
        'the longest has 5 tokens of the 64 of its context'
    """
    samples = noun
    if isinstance(noun, PreferencePairs):
        samples = concatenate([noun.chosen, noun.rejected])
    parts = [part for part in reward.modules() if isinstance(part, FormatsTexts)]
    if not parts or not len(samples) or isinstance(samples.outputs, Tensor):
        return ""
    longest = 0
    for start in range(0, len(samples), AT_ONCE):
        counts = parts[0].token_counts(samples[start : start + AT_ONCE])
        longest = max(longest, *counts.rows)
    return f"the longest has {longest} tokens of the {_of(parts[0].limit)} its context"


def _of(limit: int | None) -> str:
    return "unlimited ones of" if limit is None else f"{limit} of"
