"""Networks and tokenizers of transformers: how they are loaded, and what any of them is asked."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rewardlab.errors import InputError, reason_of
from rewardlab.networks.adapters import absorbed, read_adapter, saved_layers, with_adapter
from rewardlab.networks.silence import silent
from rewardlab.networks.tokens import PROBE_TEXT, check_words
from rewardlab.networks.wrappers import key_mapping, tell_of_wrapper

# buffers that older versions wrote, and newer ones compute
BUFFERS = (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias", ".position_ids")

_log = logging.getLogger("rewardlab")


def is_name(model: Any) -> bool:
    """Tell whether a model is named, by a folder or a hub id, and not given as an instance.

    Example:
        >>> is_name("runs/policy"), is_name(torch.nn.Linear(2, 1))
        (True, False)
    """
    return isinstance(model, str | os.PathLike)


def from_pretrained(kind: str, name: str, *, quiet: bool = True, **options: Any) -> Any:
    """Call `from_pretrained` of a class of transformers without touching global randomness.

    Args:
        kind: the class's name, such as "AutoTokenizer".
        name: a folder or a hub id.
        quiet: keep progress bars and reports back. A download is worth a bar.
        options: further arguments of the class's `from_pretrained`.

    Raises:
        InputError: if transformers cannot load it, whatever the reason.
    """
    import transformers

    try:
        with silent() if quiet else nullcontext(), torch.random.fork_rng():
            return getattr(transformers, kind).from_pretrained(name, **options)
    except Exception as error:  # a foreign file can make transformers raise anything
        raise InputError(
            f"transformers cannot load {name} ({kind}): {reason_of(error)} … "
            "Is it the folder or hub id of a language model, whole and of one backbone?"
        ) from error


def load_network(
    kind: str, name: str, dtype: torch.dtype, *, quiet: bool = True, **options: Any
) -> Any:
    """Load a network of a class of transformers, with all of its weights.

    An adapter of peft is merged into the network that it is for. Weights that a wrapper (DDP, FSDP,
    torch.compile) renamed are loaded if all of them fit without its marks.

    Args:
        kind: the class's name, such as "AutoModelForCausalLM".
        name: a folder or a hub id.
        dtype: precision of the weights.
        quiet: keep progress bars and reports back.
        options: further arguments of the class's `from_pretrained`.

    Raises:
        InputError: if it cannot be loaded, or the folder lacks some of the class's weights, which
            transformers would draw at random, or holds others.
    """
    adapter = read_adapter(name)
    if adapter is None:
        return absorbed(_load_whole(kind, name, dtype, quiet=quiet, **options))
    if not os.path.isdir(adapter.base):
        options.pop("local_files_only", None)
    saved = saved_layers(adapter)
    if adapter.classifies and saved.labels is not None:
        options["num_labels"] = saved.labels
    base = _load_whole(
        kind, adapter.base, torch.float32, spared=saved.names, quiet=quiet, **options
    )
    return with_adapter(base, adapter).to(dtype)


def config_of(name: str) -> Any:
    """Return the config of a model's folder or hub id; of an adapter's, that of its base.

    Raises:
        InputError: if it cannot be loaded.
    """
    adapter = read_adapter(name)
    return from_pretrained("AutoConfig", adapter.base if adapter is not None else name)


def text_class(config: Any) -> str | None:
    """Return the name of transformers' auto class that loads a model as a writer of text.

    A multimodal model, such as Gemma3ForConditionalGeneration, may be one. None for a model with
    another head, such as a classifier or an encoder-decoder.

    Args:
        config: of transformers.
    """
    from transformers.models.auto import modeling_auto

    names = [str(name) for name in config.architectures or []]
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "AutoModelForCausalLM"
    mappings = {
        "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        "AutoModelForImageTextToText": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    }
    for kind, mapping in mappings.items():
        model: Any = mapping.get(type(config), None)
        if model is not None and model.__name__ in names:
            return kind
    return None


def _load_whole(
    kind: str,
    name: str,
    dtype: torch.dtype,
    *,
    spared: Collection[str] = (),
    quiet: bool = True,
    **options: Any,
) -> Any:
    """Load a network that is no adapter, with all of its weights but those that are `spared`."""

    def load(**further: Any) -> Any:
        return from_pretrained(
            kind, name, quiet=quiet, dtype=dtype, output_loading_info=True, **options, **further
        )

    network, info = load()
    misfits = _misfits(network, info, spared)
    mapping = key_mapping(info["unexpected_keys"])
    if misfits.missing and mapping:
        renamed, renamed_info = load(key_mapping=mapping)
        if not _misfits(renamed, renamed_info, spared):
            tell_of_wrapper(name)
            return renamed
    check_whole(network, name, misfits)
    _tell_of_rest(name, network, info["unexpected_keys"])
    return network


class Misfits(NamedTuple):
    """The names of weights by which a checkpoint is not the network's.

    Attributes:
        missing: what the network has and the checkpoint lacks.
        unexpected: what the checkpoint has inside a part of the network that has no such weight.
    """

    missing: list[str]
    unexpected: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected)


def _misfits(network: Any, info: Mapping[str, Any], spared: Collection[str]) -> Misfits:
    missing = sorted(set(info["missing_keys"]) - set(spared))
    unexpected = []
    for name in sorted(info["unexpected_keys"]):
        if _part_of(network, name) is not None and not name.endswith(BUFFERS):
            unexpected.append(name)
    return Misfits(missing, unexpected)


def _part_of(network: Any, name: str) -> str | None:
    """Return the part of a network that a weight's name begins with, None if it has no such."""
    prefix = f"{network.base_model_prefix}."
    parts = dict(network.named_children()) | dict(network.base_model.named_children())
    for candidate in (name, name.removeprefix(prefix)):
        first = candidate.split(".", 1)[0]
        if first in parts:
            return first
    return None


def check_whole(network: Any, name: str, misfits: Misfits | None = None) -> None:
    """Refuse a network that lacks weights, or whose checkpoint has others.

    Args:
        network: of transformers.
        name: of the checkpoint, for the message.
        misfits: found in loading.

    Raises:
        InputError: naming a weight.
    """
    kind = type(network).__name__
    misfits = misfits or Misfits([], [])
    if misfits.missing:
        raise InputError(
            f"{name} lacks {len(misfits.missing)} weights of a {kind}, such as "
            f"{misfits.missing[0]}. Are config.json and the weights of one model?"
        )
    if misfits.unexpected:
        raise InputError(
            f"{name} has {len(misfits.unexpected)} weights that a {kind} by its config.json has no "
            f"place for, such as {misfits.unexpected[0]}. Are config.json and the weights of one "
            "model?"
        )
    empty = []
    for weight, parameter in network.named_parameters():
        if parameter.is_meta:
            empty.append(weight)
    if empty:
        raise InputError(
            f"{name} leaves {len(empty)} weights of a {kind} without numbers (on the meta device), "
            f"such as {empty[0]}. Load them before, or give the model's folder."
        )


def _tell_of_rest(name: str, network: Any, unexpected: Collection[str]) -> None:
    """Log what a checkpoint has beside the network, such as another head."""
    if unexpected:
        _log.info(
            "%s has weights beside a %s, which are left out: %s",
            name,
            type(network).__name__,
            ", ".join(sorted(unexpected)[:5]),
        )


def load_tokenizer(
    tokenizer: Any | None, model: Any, owner: str, *, quiet: bool = True, **options: Any
) -> Any:
    """Return the tokenizer that is given or named; by default load the one beside the model.

    Args:
        tokenizer: an instance, a folder, a hub id, or None.
        model: the model that it is for, a name or an instance.
        owner: the class that asks, for the message.
        quiet: keep progress bars and reports back.
        options: further arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        InputError: if it cannot be loaded or knows no words, or the model is an instance, which has
            none beside it.
    """
    if tokenizer is not None and not is_name(tokenizer):
        return tokenizer
    if tokenizer is None and not is_name(model):
        raise InputError(
            f"{owner} got a {type(model).__name__} and no tokenizer. Give tokenizer= beside it."
        )
    name = str(tokenizer or model)
    adapter = read_adapter(name)
    if adapter is not None and not _has_tokenizer(adapter.folder):
        name = adapter.base
        options.pop("local_files_only", None)
    loaded = from_pretrained("AutoTokenizer", name, quiet=quiet, **options)
    check_words(loaded, name)
    return _as_written(loaded, name)


def _as_written(tokenizer: Any, name: str) -> Any:
    """Return the tokenizer that a folder's tokenizer.json describes.

    Beside some models' config.json (qwen2), and for some named classes, transformers rebuilds a
    part of it, and cuts digits or spaces otherwise than in training.
    """
    file = Path(name) / "tokenizer.json"
    if not file.is_file():
        return tokenizer
    expected = _ids_of_file(file)
    if expected in (None, list(tokenizer(PROBE_TEXT, add_special_tokens=False).input_ids)):
        return tokenizer
    plain = from_pretrained("PreTrainedTokenizerFast", name)
    if list(plain(PROBE_TEXT, add_special_tokens=False).input_ids) != expected:
        return tokenizer
    _log.info(
        "%s: the tokenizer is what tokenizer.json says, and not the %s that transformers makes of "
        "it",
        name,
        type(tokenizer).__name__,
    )
    return plain


def _ids_of_file(file: Path) -> list[int] | None:
    """Return the ids of the probe text by a tokenizer.json, None if it cannot be read."""
    from tokenizers import Tokenizer

    try:
        written = Tokenizer.from_file(str(file))
    except Exception:  # transformers may read what `tokenizers` alone cannot
        return None
    written.no_truncation()
    written.no_padding()
    return list(written.encode(PROBE_TEXT, add_special_tokens=False).ids)


def _has_tokenizer(folder: Path) -> bool:
    return any(folder.glob("tokenizer*")) or any(folder.glob("vocab*"))


def checkpoint_activations(network: Any) -> None:
    """Let the backward pass compute each block's activations anew: time for memory."""
    older = network.gradient_checkpointing_enable  # its name in older transformers
    enable = getattr(network, "activation_checkpointing_enable", older)
    enable({"use_reentrant": False})


def takes_positions(network: Any) -> bool:
    """Tell whether a network's `forward` takes `position_ids`."""
    forward = network.forward
    return _takes_positions(getattr(forward, "__func__", forward))


@lru_cache(maxsize=64)
def _takes_positions(forward: Callable[..., Any]) -> bool:
    """Tell whether a function takes it; the answer is kept, since a policy asks for every token."""
    return "position_ids" in signature(forward).parameters
