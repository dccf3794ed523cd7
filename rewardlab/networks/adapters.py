"""Adapters that peft saved or made: found, checked and merged into the model that they are for."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from rewardlab.errors import InputError, reason_of
from rewardlab.networks import lora
from rewardlab.networks.wrappers import without_wrappers
from rewardlab.storage.class_files import read_json

ADAPTER_FILE = "adapter_config.json"
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")

_log = logging.getLogger("rewardlab")


class Adapter(NamedTuple):
    """A folder that peft's `save_pretrained` wrote.

    Attributes:
        folder: the folder.
        base: folder or hub id of the model that the adapter is for.
        task: peft's name of the model's kind, such as "CAUSAL_LM" or "SEQ_CLS", or "".
    """

    folder: Path
    base: str
    task: str

    @property
    def classifies(self) -> bool:
        """Whether the adapter is a sequence classifier's."""
        return self.task == "SEQ_CLS"


def read_adapter(model: Any) -> Adapter | None:
    """Return the adapter that a folder holds, None for anything else.

    Args:
        model: whatever may name a model.

    Raises:
        InputError: if the adapter does not say what it is for.
    """
    if not isinstance(model, str | os.PathLike):
        return None
    folder = Path(model)
    if not (folder / ADAPTER_FILE).is_file():
        return None
    config = read_json(folder / ADAPTER_FILE)
    base = config.get("base_model_name_or_path")
    if not base:
        raise InputError(
            f"{folder / ADAPTER_FILE} names no base_model_name_or_path, the model that the adapter "
            "is for. Write the folder or hub id of that model there."
        )
    if not Path(base).is_dir() and (folder / base).is_dir():
        base = str(folder / base)
    is_path = Path(base).is_absolute() or base.startswith(".")
    if is_path and not Path(base).is_dir():
        raise InputError(
            f"{folder / ADAPTER_FILE} names {base} as the model that the adapter is for, which is "
            "not there. Was it moved? Write its folder or hub id into base_model_name_or_path."
        )
    return Adapter(folder, base, str(config.get("task_type") or ""))


class SavedLayers(NamedTuple):
    """Layers that an adapter's file holds whole, such as a new head.

    Attributes:
        names: of their weights in the model.
        labels: number of scores of the head among them, if there is one.
    """

    names: frozenset[str]
    labels: int | None


def saved_layers(adapter: Adapter) -> SavedLayers:
    """Return which layers of the model come with an adapter.

    Raises:
        InputError: if its weights cannot be read.
    """
    weights = _weights_of(adapter.folder)
    names = [name.removeprefix("base_model.model.") for name in weights]
    labels = None
    for name, weight in weights.items():
        if name.endswith(HEADS):
            labels = len(weight)
    return SavedLayers(frozenset(names), labels)


def _weights_of(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's weights, under the names that they have without wrappers."""
    from peft.utils import load_peft_weights

    try:
        return without_wrappers(load_peft_weights(str(folder), device="cpu"), str(folder))
    except Exception as error:  # a foreign file can make peft raise anything
        raise InputError(
            f"peft cannot read the adapter's weights in {folder}: {reason_of(error)} … "
            "Is adapter_model.safetensors there, and whole?"
        ) from error


def with_adapter(network: Any, adapter: Adapter) -> Any:
    """Return the model with a folder's adapter merged into its weights.

    Args:
        network: the model that the adapter is for, of transformers. It is changed.
        adapter: of peft; of any kind that can be merged.

    Raises:
        InputError: if the adapter is not this model's, lacks weights, or cannot be merged.
    """
    from peft import PeftConfig, get_peft_model
    from peft.utils import set_peft_model_state_dict

    folder = adapter.folder
    try:
        config = PeftConfig.from_pretrained(str(folder))
        _check_merges(config, str(folder))
        weights = _weights_of(folder)
        _fit_vocabulary(network, weights)
        config.inference_mode = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked below
            model = get_peft_model(network, config)
            result = set_peft_model_state_dict(model, weights)
            _check_fits(adapter, model, config, result)
            lora.separate(model.get_base_model())
            merged = model.merge_and_unload(safe_merge=True)
    except InputError:
        raise
    except Exception as error:  # a foreign file can make peft raise anything
        raise InputError(
            f"peft cannot put the adapter {folder} on {adapter.base}: {reason_of(error)} … "
            "Is it the model that the adapter was trained on, and is the adapter whole?"
        ) from error
    _log.info("%s is an adapter; it is merged into %s", folder, adapter.base)
    return merged.requires_grad_(True)


def absorbed(model: Any) -> Any:
    """Return a model with the adapters that it has merged: a copy, or the model if it has none.

    Args:
        model: of transformers or peft.

    Raises:
        InputError: if its adapters cannot be merged.
    """
    from peft import PeftModel

    network = model
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            _check_merges(config, type(model).__name__)
        network = model.get_base_model()
    elif not lora.adapted_layers(model):
        return model
    try:
        merged = lora.merged(network)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"The adapter of the {type(model).__name__} that is given cannot be merged into its "
            f"weights: {str(error)[:300]}. Give the model that it was trained on, or train an "
            "adapter of another kind."
        ) from error
    _log.info("%s has an adapter; it is merged into a copy", type(model).__name__)
    return merged.requires_grad_(True)


def _check_merges(config: Any, owner: str) -> None:
    """Refuse adapters that are no change of weights, such as prompts that are learned.

    Raises:
        InputError: naming the kind.
    """
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise InputError(
            f"{owner} holds an adapter of the kind {kind}, which cannot be merged into a model's "
            "weights. Give one that can, such as LoRA, or the model that it was trained on."
        )


def _fit_vocabulary(network: Any, weights: dict[str, Tensor]) -> None:
    """Give a model the number of tokens that the adapter's own embeddings have, if it has any."""
    embeddings = network.get_input_embeddings()
    for name, module in network.named_modules():
        if module is embeddings:
            weight = weights.get(f"base_model.model.{name}.weight")
            if weight is not None and len(weight) != embeddings.num_embeddings:
                network.resize_token_embeddings(len(weight), mean_resizing=False)
            return


def _check_fits(adapter: Adapter, model: nn.Module, config: Any, result: Any) -> None:
    """Refuse an adapter whose weights are not those that its config asks for.

    Raises:
        InputError: naming a weight.
    """
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "lora_")
    marks = (prefix, ".modules_to_save.", ".trainable_tokens_")
    missing = []
    weights = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(weights[name]) for name in weights if name not in result.missing_keys}
    for name in result.missing_keys:
        is_filled = name in weights and id(weights[name]) in filled  # by the name that it shares
        if any(mark in name for mark in marks) and not is_filled:
            missing.append(name)
    for names, lack in ((missing, "lacks"), (result.unexpected_keys, "has no place for")):
        if names:
            raise InputError(
                f"The adapter {adapter.folder} on {adapter.base} {lack} {len(names)} weights, such "
                f"as {sorted(names)[0]}. Are adapter_config.json, the adapter's weights and the "
                "model of one training?"
            )
