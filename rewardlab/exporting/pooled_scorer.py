"""The scorer of a reward of texts for which transformers has no class of its own.

It adds up several language models, or scores the mean state over the response's tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.exporting.combination import Outputs
from rewardlab.exporting.recipes import Recipe, as_conversations, probes, recipe_of
from rewardlab.exporting.remote.tables_text_reward import tables
from rewardlab.exporting.text_scorer import Reading, reader_of, reading, term_heads
from rewardlab.networks import lora
from rewardlab.rewards import LanguageReward
from rewardlab.types import Samples


class NetworkPart(NamedTuple):
    """A language model's part in the outputs.

    Attributes:
        reader: the reward whose language model it is.
        network: the language model without a head, with its adapter merged.
        weight: float64 [O, D], the head of each output.
    """

    reader: LanguageReward
    network: Any
    weight: Tensor


class PooledForm(NamedTuple):
    """A reward of texts, ready to be written.

    Attributes:
        parts: one for each language model.
        constants: float64 [O], added to the outputs.
        recipe: the tokenizer, and how it is called.
        samples: on which what is written is compared.
    """

    parts: list[NetworkPart]
    constants: Tensor
    recipe: Recipe
    samples: Samples

    @property
    def reader(self) -> LanguageReward:
        """Return the reward that makes tokens of texts, as all of them do."""
        return self.parts[0].reader

    @property
    def averages(self) -> bool:
        """Tell whether the mean over the response's tokens is scored."""
        return any(part.reader.pooling == "mean" for part in self.parts)


def pooled_form(outputs: Outputs) -> PooledForm:
    """Return the language models, heads and tokenizer of a reward of texts.

    Raises:
        InputError: if a network is no language model, or they do not see the same tokens.
    """
    weights: dict[Reading, Tensor] = {}
    readers: dict[Reading, LanguageReward] = {}
    constants = outputs.offsets
    for term in outputs.terms:
        reader = reader_of(term.reward)
        head = term_heads(term)
        key = reading(reader)
        readers.setdefault(key, reader)
        weights[key] = weights.get(key, torch.zeros_like(head.weight)) + head.weight
        constants = constants + head.offset
    first = next(iter(readers.values()))
    samples = probes(first)
    _check_same_tokens(list(readers.values()), samples)
    recipe = recipe_of(first, samples)
    _check_starts(first, recipe, samples)
    parts = []
    for key, reader in readers.items():
        parts.append(NetworkPart(reader, lora.merged(reader.backbone).eval(), weights[key]))
    return PooledForm(parts, constants, recipe, samples)


def _check_same_tokens(readers: list[LanguageReward], samples: Samples) -> None:
    """Refuse language models that see other tokens of the same texts.

    Raises:
        InputError: naming the two.
    """
    first = readers[0]
    expected = first.token_rows(samples)
    for number, reader in enumerate(readers[1:], start=1):
        if reader.limit != first.limit or reader.token_rows(samples) != expected:
            raise InputError(
                f"An export has one tokenizer and one context, and of {len(readers)} language "
                f"models the first and number {number} see other tokens of the same texts. Export "
                "the members one by one (the numbered folders of a saved ensemble), or let "
                "`rewardlab export --to openrlhf` write a function that loads all."
            )


def _check_starts(reader: LanguageReward, recipe: Recipe, samples: Samples) -> None:
    """Refuse a tokenizer that finds responses elsewhere than the reward does.

    Raises:
        InputError: for the first sample.
    """
    made = tables(recipe.tokenizer, as_conversations(samples))["response_mask"].argmax(1).tolist()
    expected = reader.token_rows(samples).starts
    for number, (start, wanted) in enumerate(zip(made, expected, strict=True)):
        if start != wanted:
            pair = (samples.prompts[number], samples.outputs[number])
            raise InputError(
                f"transformers' tokenizer alone finds the response of {pair} at token {start}, and "
                f"the reward at {wanted}. Let `rewardlab export --to openrlhf` write a function, "
                "which loads the reward itself."
            )
