"""The scorer of a reward of texts: one network of transformers with one linear head."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.exporting.combination import Combination, Term
from rewardlab.exporting.constants import with_constant
from rewardlab.networks import lora
from rewardlab.rewards import Bottleneck, ClassifierReward, LanguageReward, Reward
from rewardlab.rewards.backbones import as_classifier

Reading = tuple[str, int | None]  # fingerprint and padding token


class LinearHead(NamedTuple):
    """score = weight @ state + offset, in float64.

    Attributes:
        weight: [D], or [O, D] of O outputs.
        offset: a number, or [O].
    """

    weight: Tensor
    offset: Tensor


class TextScorer(NamedTuple):
    """A sequence classifier of transformers with one label, and what it leaves out.

    Attributes:
        network: whose logit, plus `offset`, is the score.
        offset: what has no place in the network; 0 where it has a bias.
        reader: the reward that makes tokens of texts.
    """

    network: Any
    offset: float
    reader: LanguageReward | ClassifierReward


def is_classifier(combination: Combination) -> bool:
    """Tell whether a class of transformers' own scores as a combination of rewards of texts does.

    A sequence classifier is one network and the state of its last token.

    Raises:
        InputError: if there is a network of images beside them.
    """
    if isinstance(combination.terms[0].reward, ClassifierReward):
        return True
    readers = [reader_of(term.reward) for term in combination.terms]
    kinds = {reading(reader) for reader in readers}
    return len(kinds) == 1 and readers[0].pooling == "last"


def text_scorer(combination: Combination) -> TextScorer:
    """Return the network of a combination of rewards of texts for which `is_classifier` holds.

    Heads on one network become one head: a sum of linear heads is linear. So is a Bottleneck's
    score, which is of its mean.

    Raises:
        InputError: if a published classifier is beside others, or its score is not linear.
    """
    first = combination.terms[0].reward
    if isinstance(first, ClassifierReward):
        return _of_classifier(first, combination)
    reader = reader_of(first)
    head = _summed(combination)
    backbone = lora.merged(reader.backbone)
    network = as_classifier(backbone, head.weight[None].float(), reader.pad)
    settled = with_constant(network.eval(), float(head.offset))
    return TextScorer(settled.network, settled.offset, reader)


def reader_of(reward: Reward) -> LanguageReward:
    """Return the LanguageReward that a term's heads stand on.

    Raises:
        InputError: if it is of another kind.
    """
    inner = reward.reward if isinstance(reward, Bottleneck) else reward
    if isinstance(inner, LanguageReward):
        return inner
    raise InputError(
        f"An export has networks of one kind, and this reward adds a LanguageReward and a "
        f"{type(inner).__name__}. Export them one by one."
    )


def reading(reader: LanguageReward) -> Reading:
    """Return what the states of a reward's tokens depend on, equal for heads on one network."""
    return reader.frozen_fingerprint(), reader.pad


def _summed(combination: Combination) -> LinearHead:
    """Return the one head that the weighted heads of all terms are."""
    weight = torch.zeros((), dtype=torch.float64)
    offset = torch.tensor(combination.offset, dtype=torch.float64)
    for term in combination.terms:
        heads = term_heads(term)
        weight = weight + heads.weight
        offset = offset + heads.offset
    return LinearHead(weight, offset)


@torch.no_grad()
def term_heads(term: Term) -> LinearHead:
    """Return the weighted sum of a term's linear heads, on states that are not standardized."""
    reward: Any = term.reward
    rows = reward.head.double().cpu()
    offsets = torch.zeros(len(rows), dtype=torch.float64)
    if isinstance(reward, Bottleneck):
        rows = rows @ reward.to_mean.double().cpu()
    else:
        offsets = reward.offset.double().cpu()
    rows = rows / reward.std.double().cpu()
    offsets = offsets - rows @ reward.mean.double().cpu()
    return LinearHead(term.weights @ rows, term.weights @ offsets)


def _of_classifier(reward: ClassifierReward, combination: Combination) -> TextScorer:
    """Return a published classifier with one label, whose logit is the score.

    Raises:
        InputError: if there are further networks, or the score is no logit of one linear layer.
    """
    if len(combination.terms) > 1:
        raise InputError(
            f"This reward is made of {len(combination.terms)} networks, and a sequence classifier "
            "is one. Export them one by one."
        )
    scale = combination.terms[0].weights.item()
    network = deepcopy(reward.network).eval()
    name = _last_layer(network)
    layer: Any = network.get_submodule(name)
    single, offset = _single(layer, reward, scale, combination.offset)
    network.set_submodule(name, single)
    for part in (network, network.config):
        part.num_labels = 1
    network.config.id2label = {0: "reward"}
    network.config.label2id = {"reward": 0}
    network.config.problem_type = None
    return TextScorer(network, offset, reward)


def _last_layer(network: Any) -> str:
    """Return the name of the linear layer that gives a classifier's logits.

    Raises:
        InputError: if there is not one such layer.
    """
    names: list[str] = []
    base = f"{network.base_model_prefix}."
    for name, module in network.named_modules():
        is_last = isinstance(module, nn.Linear) and module.out_features == network.num_labels
        if is_last and not name.startswith(base):
            names.append(name)
    if not names:
        raise InputError(
            f"The logits of a {type(network).__name__} are not those of one linear layer, so they "
            "cannot become one score. Export is for classifiers that end in one."
        )
    return names[-1]


@torch.no_grad()
def _single(
    layer: nn.Linear, reward: ClassifierReward, scale: float, offset: float
) -> tuple[nn.Linear, float]:
    """Return a layer with one output, the scaled score, and what of the offset it cannot hold.

    Raises:
        InputError: if the score is a log-odds of more than two labels, which is not linear.
    """
    scored = reward.scored
    if len(scored.wanted) > 1 or len(scored.others) > 1:
        raise InputError(
            "A score of several labels against several is no linear function of the logits, and a "
            "classifier with one label needs one. Let `rewardlab export --to openrlhf` write a "
            "function."
        )
    direction = torch.zeros(layer.out_features, dtype=torch.float64)
    direction[scored.wanted] = scale
    direction[scored.others] = -scale
    single = nn.Linear(layer.in_features, 1, bias=layer.bias is not None)
    single.weight.copy_(direction[None] @ layer.weight.double().cpu())
    if layer.bias is None:
        return single, offset
    single.bias.copy_(direction[None] @ layer.bias.double().cpu() + offset)
    return single, 0.0
