"""Language models from transformers without their heads: loading, low-rank adapters, and their form
as classifiers.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks.silence import silent

HEAD = "score.weight"


def load_backbone(
    model: str | Path | Any, dtype: torch.dtype, share: bool
) -> tuple[Any, Tensor | None]:
    """Return a transformers model without its head, and the weight [K, D] of its `score` head if it
    is a classifier.

    Args:
        model: a folder, a hub id, or a model with any head or none.
        dtype: of the weights, where they are loaded; an instance keeps its own.
        share: whether an instance's weights are used as they are; otherwise they are copied.

    Raises:
        InputError: if it cannot be loaded, weights are missing, or its head is not one linear
            `score`.
    """
    if not isinstance(model, str | Path):
        kept = {id(parameter): parameter for parameter in model.parameters()} if share else {}
        model = deepcopy(model, kept)
        return model.base_model, _head_of(model)
    network = loaded(str(model), dtype)
    head = _head_of(network)
    return network.base_model, head if head is None else _exact_head(Path(model), head)


def load_tokenizer(model: str | Path | Any, tokenizer: Any | None, backbone: Any) -> Any:
    """Return the tokenizer given, or the one beside the model; with a token to pad with.

    Raises:
        InputError: if there is none, it has nothing to pad with, or has more tokens than the
            backbone knows.
    """
    if tokenizer is None and not isinstance(model, str | Path):
        raise InputError(
            f"LanguageReward got a {type(model).__name__} and no tokenizer. Give tokenizer= beside it."
        )
    if tokenizer is None or isinstance(tokenizer, str | Path):
        tokenizer = from_pretrained("AutoTokenizer", str(tokenizer or model))
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise InputError(
            "The tokenizer has neither a padding nor an end token, so rows cannot be batched. Set its pad_token."
        )
    known = backbone.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} tokens, but the backbone embeds {known}. Do they belong to one model?"
        )
    return tokenizer


def as_classifier(backbone: Any, weight: Tensor, pad: int) -> Any:
    """Return the transformers classifier whose body is `backbone` and whose head is `weight` [K,
    D].

    Raises:
        InputError: if transformers has no classifier with a `score` head over this kind of
            backbone.
    """
    config = deepcopy(backbone.config)
    config.num_labels = len(weight)
    config.pad_token_id = pad
    kind = _classifier_of(config)
    with torch.device("meta"):
        network = None if kind is None else kind(config)
    if network is None or not isinstance(getattr(network, "score", None), nn.Linear):
        raise InputError(
            f"transformers has no sequence classifier with a linear `score` head for {type(backbone).__name__}; "
            "LanguageReward needs a decoder, such as Llama, Qwen or GPT-2."
        )
    setattr(network, network.base_model_prefix, backbone)
    network.score = nn.Linear(*weight.T.shape, bias=False, device="meta")
    network.score.weight = nn.Parameter(weight.detach(), requires_grad=False)
    network.config.architectures = [kind.__name__]
    return network


def has_score(model: str | Path) -> bool:
    """Tell whether the sequence classifier in a folder, or behind a hub id, has one linear `score`
    head: a decoder's form.
    """
    config = from_pretrained("AutoConfig", str(model))
    kind = _classifier_of(config)
    with torch.device("meta"):
        return kind is not None and isinstance(getattr(kind(config), "score", None), nn.Linear)


def _classifier_of(config: Any) -> Any:
    """The class of sequence classifiers that transformers has for a config, None if it has none."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS,
    )

    return CLASSIFIERS.get(type(config), None)


def loaded(name: str, dtype: torch.dtype) -> Any:
    """Load a sequence classifier as such, and any other model without its head; refuse what lacks
    weights.
    """
    names = from_pretrained("AutoConfig", name).architectures or []
    classifies = any(each.endswith("ForSequenceClassification") for each in names)
    kind = "AutoModelForSequenceClassification" if classifies else "AutoModel"
    network, info = from_pretrained(kind, name, dtype=dtype, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{name} lacks {len(missing)} weights of a {type(network).__name__}, such as {missing[0]}. "
            "Are config.json and the weights of one model?"
        )
    return network


def from_pretrained(kind: str, name: str, **options: Any) -> Any:
    """Call `from_pretrained` of a class of transformers, quietly and without touching the global
    random state.
    """
    import transformers

    try:
        with silent(), torch.random.fork_rng():
            return getattr(transformers, kind).from_pretrained(name, **options)
    except Exception as error:  # a foreign file can make transformers raise anything
        raise InputError(
            f"transformers cannot load {name} ({kind}): {str(error)[:300]} … "
            "Is it the folder or hub id of a language model, whole and of one backbone?"
        ) from error


def _head_of(network: Any) -> Tensor | None:
    """The weight of a classifier's head, None for a model with another head or none."""
    if not type(network).__name__.endswith("ForSequenceClassification"):
        return None
    head = getattr(network, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise InputError(
            f"LanguageReward takes classifiers with one linear `score` head on the last token; {type(network).__name__} has "
            "another. Is it an encoder? rewardlab.rewards.classifier.ClassifierReward takes such."
        )
    return head.weight.detach()


def _exact_head(folder: Path, head: Tensor) -> Tensor:
    """The head as the folder's file has it: transformers rounds it to the backbone's precision."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
    file = folder / names.get(HEAD, "model.safetensors")
    if not file.is_file():
        return head
    with safe_open(file, framework="pt") as weights:
        return weights.get_tensor(HEAD) if HEAD in weights.keys() else head  # noqa: SIM118  (it is no dict)
