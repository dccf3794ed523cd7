"""A reward of texts as a folder of transformers: a sequence classifier with one label."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.exporting.combination import Combination
from rewardlab.exporting.comparison import Comparison, coarsest, compared
from rewardlab.exporting.recipes import Kind, Recipe, probes, recipe_of
from rewardlab.exporting.text_scorer import TextScorer, text_scorer
from rewardlab.networks.silence import silent
from rewardlab.rewards import LanguageReward, Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples


class TextForm(NamedTuple):
    """A reward of texts, ready to be written.

    Attributes:
        scorer: the network.
        recipe: the tokenizer, and how it is called.
        samples: on which what is written is compared.
    """

    scorer: TextScorer
    recipe: Recipe
    samples: Samples


class WrittenText(NamedTuple):
    """What stands in a folder.

    Attributes:
        kind: how texts become tokens; see `Recipe`.
        offset: what is added to a logit.
        comparison: with the reward.
    """

    kind: Kind
    offset: float
    comparison: Comparison


def text_form(combination: Combination) -> TextForm:
    """Return the network and the tokenizer of a reward of texts.

    Raises:
        InputError: if no sequence classifier scores as the reward does.
    """
    scorer = text_scorer(combination)
    samples = probes(scorer.reader)
    recipe = recipe_of(scorer.reader, samples)
    if isinstance(scorer.reader, LanguageReward):
        pad = padding_id(scorer.reader, samples)
        recipe.tokenizer.pad_token = recipe.tokenizer.convert_ids_to_tokens(pad)
        scorer.network.config.get_text_config().pad_token_id = pad
    return TextForm(scorer, recipe, samples)


def write_text(folder: Path, form: TextForm, reward: Reward, dtype: torch.dtype) -> WrittenText:
    """Write a reward of texts into an empty folder, load it with transformers, and compare.

    Args:
        folder: empty.
        form: of the reward.
        reward: the original.
        dtype: of the weights.

    Raises:
        InputError: if what was written scores otherwise.
    """
    expected = scores_of(reward, form.samples)
    network = in_dtype(form.scorer.network, dtype)
    if form.scorer.offset:
        network.config.reward_offset = form.scorer.offset
    with silent():
        network.save_pretrained(folder)
        form.recipe.tokenizer.save_pretrained(folder)
    scores = _scores_of_folder(folder, form) + form.scorer.offset
    name = coarsest(str(dtype).removeprefix("torch."), reward)
    comparison = compared(scores, expected, name, "The exported classifier")
    return WrittenText(form.recipe.kind, form.scorer.offset, comparison)


def in_dtype(network: Any, dtype: torch.dtype) -> Any:
    """Return a network whose weights have a precision: itself, or a copy."""
    if all(parameter.dtype == dtype for parameter in network.parameters()):
        return network
    return deepcopy(network).to(dtype)


def padding_id(reader: LanguageReward, samples: Samples) -> int:
    """Return the token that pads an exported classifier, which scores the last other token.

    It is the reward's own. A reward that scores the very last token, whatever it is, gets one with
    which no text ends.

    Raises:
        InputError: if the tokenizer has none.
    """
    tokenizer = reader.tokenizer
    if reader.pad is not None and 0 <= reader.pad < len(tokenizer):
        return reader.pad
    ends = {row[-1] for row in reader.token_rows(samples).ids}
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, *tokenizer.all_special_ids]
    for candidate in candidates:
        if candidate is not None and candidate not in ends:
            return int(candidate)
    raise InputError(
        "This reward scores the very last token, its end token, and a classifier of transformers "
        "leaves out trailing padding; its tokenizer has no other special token to pad with. Add a "
        "pad_token to the tokenizer in its folder."
    )


@torch.no_grad()
def _scores_of_folder(folder: Path, form: TextForm) -> Tensor:
    """Return the logits that transformers' own classes give, [B]."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with silent():
        network: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    tables = Recipe(form.recipe.kind, tokenizer).tables(form.samples)
    logits: Tensor = network(**tables).logits
    return logits[:, 0].float()
