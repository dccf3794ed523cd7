"""Language models from transformers without their heads, and their form as classifiers."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks import lora
from rewardlab.networks.adapters import absorbed, read_adapter
from rewardlab.networks.loading import check_whole, config_of, is_name, load_network
from rewardlab.networks.silence import silent
from rewardlab.rewards.folders import REWARD
from rewardlab.rewards.foreign_heads import ForeignHead, foreign_head, forget_head, read_weight
from rewardlab.rewards.language_likelihood import HeadSource
from rewardlab.rewards.saved import check_saved
from rewardlab.seeds import derive
from rewardlab.storage.atomic import new_folder, write_json

HEAD = "score.weight"
DECODERS = ("ForCausalLM", "LMHeadModel")
CLASSIFIER = "ForSequenceClassification"  # how the names of transformers' classifiers end


class Backbone(NamedTuple):
    """A transformers model without its head.

    Attributes:
        network: the model.
        head: the weight [K, D] of the `score` head that it had, or None.
        language: where its language head is, if it had one.
        foreign: more of that head, where OpenRLHF, verl or TRL wrote it.
    """

    network: Any
    head: Tensor | None
    language: HeadSource
    foreign: ForeignHead | None = None


def load_backbone(model: str | Path | Any, dtype: torch.dtype, share: bool) -> Backbone:
    """Return a transformers model without its head, and the head's weight if it is a classifier.

    Args:
        model: a folder, a hub id, or a model with any head or none.
        dtype: of the weights, where they are loaded; an instance keeps its own.
        share: whether an instance's weights are used as they are; otherwise they are copied.

    Raises:
        InputError: if it cannot be loaded, weights are missing, or its head is not one linear
            `score`.
    """
    if is_name(model):
        return _named_backbone(str(model), dtype)
    model = absorbed(model)
    check_whole(model, f"The {type(model).__name__} that is given")
    shared = {}
    if share:
        shared = {id(parameter): parameter for parameter in model.parameters()}
    network = deepcopy(model, shared)
    return Backbone(network.base_model, _head_of(network), HeadSource(model))


def _named_backbone(name: str, dtype: torch.dtype) -> Backbone:
    """Load a folder's or a hub id's model without its head."""
    is_adapter = read_adapter(name) is not None
    foreign = None if is_adapter else foreign_head(name)
    network = load_headless(name, torch.float32 if is_adapter else dtype)
    if foreign is not None:
        forget_head(network.config)
        return Backbone(network.base_model, foreign.weight, HeadSource(name), foreign)
    head = _head_of(network)
    if head is not None and not is_adapter:
        exact = read_weight(Path(name), HEAD)  # the loaded one has the backbone's precision
        head = head if exact is None else exact
    return Backbone(network.base_model, head, HeadSource(name))


def trained_backbone(
    model: str | Path | Any, dtype: torch.dtype, frozen: bool, lora_rank: int | None, seed: int
) -> Backbone:
    """Load a network without its head, with an adapter if it is to have one.

    What is not trained is frozen, in `dtype`; the rest is float32.

    Args:
        model: as `load_backbone`.
        dtype: of what is not trained.
        frozen: whether nothing of it is trained.
        lora_rank: rank of an adapter that is trained alone.
        seed: of the adapter.

    Raises:
        InputError: as `load_backbone`, or if it is to be frozen and to train an adapter.
    """
    if frozen and lora_rank is not None:
        raise InputError(
            "LanguageReward is either frozen or trains an adapter; got frozen=true and "
            f"lora_rank={lora_rank}."
        )
    is_fixed = frozen or lora_rank is not None
    dtype = dtype if is_fixed else torch.float32
    backbone = load_backbone(model, dtype, share=is_fixed)
    backbone.network.to(dtype).requires_grad_(not is_fixed)
    if lora_rank is not None:
        lora.add(backbone.network, lora_rank, "all-linear", dtype, derive(seed, "lora"))
    return backbone


def load_headless(name: str, dtype: torch.dtype) -> Any:
    """Load a sequence classifier as such, and any other model without its head.

    Raises:
        InputError: if it cannot be loaded, or weights are missing.
    """
    architectures = config_of(name).architectures or []
    adapter = read_adapter(name)
    classifies = any(architecture.endswith(CLASSIFIER) for architecture in architectures)
    kind = "AutoModel"
    decodes = any(architecture.endswith(DECODERS) for architecture in architectures)
    if adapter is not None and decodes:
        kind = "AutoModelForCausalLM"  # an adapter's names are those of the whole model
    if classifies or (adapter is not None and adapter.classifies):
        kind = "AutoModelForSequenceClassification"
    return load_network(kind, name, dtype)


def as_classifier(backbone: Any, weight: Tensor, pad: int | None) -> Any:
    """Return the transformers classifier of a backbone and a head's weight [K, D].

    Args:
        backbone: of transformers, without a head.
        weight: of the head.
        pad: the id that pads; None for a classifier that scores the very last token.

    Raises:
        InputError: if transformers has no classifier with a `score` head over this kind of
            backbone.
    """
    config = deepcopy(backbone.config)
    config.num_labels = len(weight)
    config.pad_token_id = pad
    network = _empty_classifier(backbone, config)
    setattr(network, network.base_model_prefix, backbone)
    heads, width = weight.shape
    network.score = nn.Linear(width, heads, bias=False, device="meta")
    network.score.weight = nn.Parameter(weight.detach(), requires_grad=False)
    network.config.architectures = [type(network).__name__]
    return network


def state_width(backbone: Any) -> int:
    """Return D, the width of the states that a classifier's `score` head sees.

    It is not always the config's hidden_size: OPT-350m projects its states to its embeddings'.

    Raises:
        InputError: as `as_classifier`.
    """
    width: int = _empty_classifier(backbone, deepcopy(backbone.config)).score.in_features
    return width


def _empty_classifier(backbone: Any, config: Any) -> Any:
    """Return the classifier over a backbone, without memory for its weights."""
    network = _empty(_classifier_of(config), config)
    if not isinstance(getattr(network, "score", None), nn.Linear):
        raise InputError(
            "transformers has no sequence classifier with a linear `score` head for "
            f"{type(backbone).__name__}; LanguageReward needs a decoder, such as Llama, Qwen or "
            "GPT-2."
        )
    return network


def has_score(model: str | Path) -> bool:
    """Tell whether a saved sequence classifier has one linear `score` head: a decoder's form.

    Args:
        model: a folder or a hub id.
    """
    config = config_of(str(model))
    network = _empty(_classifier_of(config), config)
    return isinstance(getattr(network, "score", None), nn.Linear)


def write_classifier(folder: str | Path, network: Any, reward: Any, config: dict[str, Any]) -> None:
    """Write a sequence classifier of transformers that is a reward, whole or not at all.

    What was written is loaded, and has to score as the reward does.

    Args:
        folder: where it is to stand.
        network: written as transformers does, config.json beside weights.
        reward: whose class loads the folder, and whose tokenizer is written too.
        config: of the reward, into reward.json.

    Raises:
        InputError: if `folder` holds something else, or what was written scores otherwise.
    """
    with new_folder(folder) as fresh:
        with silent():
            network.save_pretrained(fresh)
            reward.tokenizer.save_pretrained(fresh)
        write_json(fresh / REWARD, config)
        check_saved(reward, type(reward).from_pretrained(fresh), folder)


def is_classifier(network: Any) -> bool:
    """Tell whether a network is a sequence classifier of transformers."""
    return type(network).__name__.endswith(CLASSIFIER)


def _classifier_of(config: Any) -> Any:
    """Return transformers' class of sequence classifiers for a config, None if it has none."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS,
    )

    return CLASSIFIERS.get(type(config), None)


def _empty(kind: Any, config: Any) -> Any:
    """Return a network of a class without memory for its weights, None without a class."""
    if kind is None:
        return None
    with torch.device("meta"):
        return kind(config)


def _head_of(network: Any) -> Tensor | None:
    """Return the weight of a classifier's head, None for a model with another head or none."""
    if not is_classifier(network):
        return None
    head = getattr(network, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise InputError(
            "LanguageReward takes classifiers with one linear `score` head on the last token; "
            f"{type(network).__name__} has another. Is it an encoder? "
            "rewardlab.rewards.classifier.ClassifierReward takes such."
        )
    return head.weight.detach()
